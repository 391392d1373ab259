"""Opening an ONNX file with onnxruntime: providers, threads, and errors that say what is wrong."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from robustad._imports import require
from robustad.errors import InputError, MissingDependencyError, StateError
from robustad.runtime import _metadata
from robustad.runtime._binding import Binding
from robustad.runtime._custom_ops import register
from robustad.runtime._header import Header

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# What is tried where nothing is asked for. TensorRT builds engines for minutes and OpenVINO rounds
# to bfloat16 on some CPUs: they have to be asked for.
AUTOMATIC = (CUDA,)
# TF32 rounds inputs to 10 bits, which moves scores by more than verification allows.
OPTIONS = {CUDA: {"use_tf32": "0"}}


class OnnxruntimeSession:
    """A file opened by onnxruntime; see `robustad.runtime._session.Session`.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        The model.
    io_binding : bool, optional
        See `robustad.runtime.load`.
    """

    engine = _metadata.ONNXRUNTIME
    judges = True

    def __init__(self, session: Any, io_binding: bool | None = None) -> None:
        self.inputs = [value.name for value in session.get_inputs()]
        self.outputs = [value.name for value in session.get_outputs()]
        self._session = session
        device = device_of(session)
        bound = device[0] != "cpu" if io_binding is None else io_binding
        self._run = Binding(session, *device).run if bound else session.run

    @property
    def providers(self) -> list[str]:
        """Execution providers in use."""
        return list(self._session.get_providers())

    def run(self, names: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        """Outputs of these names, as numpy arrays in this order."""
        return list(self._run(names, feeds))


def open_onnxruntime(
    path: Path,
    header: Header,
    providers: Sequence[str] | None,
    threads: int | None,
    *,
    spinning: bool = True,
    provider_options: Mapping[str, Mapping[str, str]] | None = None,
    io_binding: bool | None = None,
) -> OnnxruntimeSession:
    """Open a file whose header is known; see `robustad.runtime.load`."""
    opset = header.opsets.get("", 0)
    ort = _onnxruntime()
    wanted = _available(ort, providers)
    extra = _provider_options(ort, provider_options)
    options = ort.SessionOptions()
    # Below errors, onnxruntime only reports that the calibration can be overridden: it should be.
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    register(options, header.opsets, path)
    chosen = [(name, {**OPTIONS.get(name, {}), **extra.get(name, {})}) for name in wanted]
    try:
        session = ort.InferenceSession(str(path), options, providers=chosen)
    except Exception as error:  # onnxruntime has a class a failure, none of them documented
        if len(chosen) == 1:
            raise _refusal(path, opset, ort.__version__, error) from error
        session = _on_cpu(ort, path, opset, options, wanted, error)
        return OnnxruntimeSession(session, io_binding)
    started = session.get_providers()
    for name in wanted:
        if name not in started:
            warnings.warn(
                f"{name} is installed but did not start; running on {started[0]}", stacklevel=3
            )
    return OnnxruntimeSession(session, io_binding)


def device_of(session: Any) -> tuple[str, int]:
    """Device, and which one, where the preferred provider of a session keeps its tensors."""
    name = session.get_providers()[0]
    if name != CUDA:
        return "cpu", 0
    return "cuda", int(session.get_provider_options()[name].get("device_id", 0))


def _onnxruntime() -> Any:
    try:
        return require("onnxruntime", extra="cpu", purpose="running ONNX files")
    except MissingDependencyError as error:
        raise MissingDependencyError(
            "onnxruntime is needed for running ONNX files: pip install 'robustad[cpu]', or "
            "'robustad[gpu]' for CUDA"
        ) from error


def _refusal(path: Path, opset: int, version: str, error: Exception) -> StateError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if "opset" in reason.lower():
        return StateError(
            f"{path}: written in ONNX operator set {opset}, which the installed onnxruntime "
            f"{version} does not know: upgrade it, or export again with an older one (opset=18)"
        )
    return StateError(f"{path}: not an ONNX file that can be run: {reason}")


def _on_cpu(
    ort: Any, path: Path, opset: int, options: Any, wanted: list[str], first: Exception
) -> Any:
    """Second try: some providers raise where others would have stepped aside."""
    try:
        session = ort.InferenceSession(str(path), options, providers=[(CPU, {})])
    except Exception as error:
        raise _refusal(path, opset, ort.__version__, error) from error
    reason = (str(first).splitlines() or [type(first).__name__])[0]
    warnings.warn(
        f"{', '.join(wanted[:-1])} could not run {path.name} ({reason}); running on the CPU",
        stacklevel=4,
    )
    return session


def _available(ort: Any, providers: Sequence[str] | None) -> list[str]:
    """Full names of the providers to use, the CPU last."""
    present = ort.get_available_providers()
    if providers is None:
        return [*(name for name in AUTOMATIC if name in present), CPU]
    if isinstance(providers, str):
        raise InputError(f"providers: expected a list of names, got the string {providers!r}")
    wanted = []
    for provider in providers:
        name = _full(ort, provider, "providers")
        if name not in present:
            warnings.warn(
                f"{name} is not part of the installed onnxruntime; running on the CPU instead "
                "(for CUDA: pip install 'robustad[gpu]')",
                stacklevel=4,
            )
        elif name != CPU and name not in wanted:
            wanted.append(name)
    return [*wanted, CPU]


def _provider_options(
    ort: Any, given: Mapping[str, Mapping[str, str]] | None
) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for provider, options in (given or {}).items():
        if not isinstance(options, Mapping):
            raise InputError(
                f"provider_options: expected a mapping of options for {provider}, got {options!r}"
            )
        name = _full(ort, provider, "provider_options")
        found[name] = {str(key): str(value) for key, value in options.items()}
    return found


def _full(ort: Any, provider: str, argument: str) -> str:
    known = {_short(name): name for name in ort.get_all_providers()}
    name: str | None = known.get(_short(provider))
    if name is None:
        raise InputError(
            f"{argument}: expected names of {', '.join(sorted(known))}, got {provider!r}"
        )
    return name


def _short(name: str) -> str:
    return name.lower().removesuffix("executionprovider")
