"""Opening an ONNX file with onnxruntime: providers, threads, and errors that say what is wrong."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustad._imports import require
from robustad.errors import InputError, MissingDependencyError, StateError
from robustad.runtime._custom_ops import register
from robustad.runtime._header import read_header

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# What is tried where nothing is asked for. TensorRT builds engines for minutes and OpenVINO rounds
# to bfloat16 on some CPUs: they have to be asked for.
AUTOMATIC = (CUDA,)
# TF32 rounds inputs to 10 bits, which moves scores by more than verification allows.
OPTIONS = {CUDA: {"use_tf32": "0"}}
# The exporter writes 18 or 20. Older sets define some operators otherwise.
OLDEST_OPSET = 18


def open_session(
    path: str | Path,
    providers: Sequence[str] | None,
    threads: int | None,
    *,
    spinning: bool = True,
    provider_options: Mapping[str, Mapping[str, str]] | None = None,
) -> Any:
    """Open a file; see `robustad.runtime.load`.

    Returns
    -------
    onnxruntime.InferenceSession
        Ready to run.
    """
    path = check_file(path)
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected >= 1, got {threads}")
    opsets = read_header(path).opsets
    opset = opsets.get("", 0)
    if opset < OLDEST_OPSET:
        raise StateError(
            f"{path}: written in ONNX operator set {opset}, expected {OLDEST_OPSET} or newer: not "
            "a file of robustad's, or a tool has converted it"
        )
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
    register(options, opsets, path)
    chosen = [(name, {**OPTIONS.get(name, {}), **extra.get(name, {})}) for name in wanted]
    try:
        session = ort.InferenceSession(str(path), options, providers=chosen)
    except Exception as error:  # onnxruntime has a class a failure, none of them documented
        if len(chosen) == 1:
            raise _refusal(path, opset, ort.__version__, error) from error
        return _on_cpu(ort, path, opset, options, wanted, error)
    started = session.get_providers()
    for name in wanted:
        if name not in started:
            warnings.warn(
                f"{name} is installed but did not start; running on {started[0]}", stacklevel=3
            )
    return session


def check_file(path: str | Path) -> Path:
    """Refuse what is no file, before anything is read."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: expected an ONNX file, got a folder")
    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file")
    return path


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
