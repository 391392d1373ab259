"""Opening an ONNX file with onnxruntime: providers, threads, and errors that say what is wrong."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustad._imports import require
from robustad.errors import InputError, MissingDependencyError, StateError

CPU = "CPUExecutionProvider"
# TF32 rounds inputs to 10 bits, which moves scores by more than verification allows.
OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}


def open_session(path: str | Path, providers: Sequence[str] | None, threads: int | None) -> Any:
    """Open a file; see `robustad.runtime.load`.

    Returns
    -------
    onnxruntime.InferenceSession
        Ready to run.
    """
    path = Path(path)
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected >= 1, got {threads}")
    if path.is_dir():
        raise InputError(f"{path}: expected an ONNX file, got a folder")
    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file")
    try:
        ort = require("onnxruntime", extra="cpu", purpose="running ONNX files")
    except MissingDependencyError as error:
        raise MissingDependencyError(
            "onnxruntime is needed for running ONNX files: pip install 'robustad[cpu]', or "
            "'robustad[gpu]' for CUDA"
        ) from error
    wanted = _available(ort, providers)
    options = ort.SessionOptions()
    # Below errors, onnxruntime only reports that the calibration can be overridden: it should be.
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(
            str(path), options, providers=[(name, OPTIONS.get(name, {})) for name in wanted]
        )
    except Exception as error:  # onnxruntime has a class a failure, none of them documented
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StateError(f"{path}: not an ONNX file that can be run: {reason}") from error
    started = session.get_providers()
    for name in wanted:
        if name not in started:
            warnings.warn(
                f"{name} is installed but did not start; running on {started[0]}", stacklevel=3
            )
    return session


def _available(ort: Any, providers: Sequence[str] | None) -> list[str]:
    """Full names of the providers to use, the CPU last."""
    if isinstance(providers, str):
        raise InputError(f"providers: expected a list of names, got the string {providers!r}")
    known = {_short(name): name for name in ort.get_all_providers()}
    present = ort.get_available_providers()
    wanted = []
    for provider in providers or ():
        name = known.get(_short(provider))
        if name is None:
            raise InputError(
                f"providers: expected names of {', '.join(sorted(known))}, got {provider!r}"
            )
        if name not in present:
            warnings.warn(
                f"{name} is not part of the installed onnxruntime; running on the CPU instead "
                "(for CUDA: pip install 'robustad[gpu]')",
                stacklevel=4,
            )
        elif name != CPU and name not in wanted:
            wanted.append(name)
    return [*wanted, CPU]


def _short(name: str) -> str:
    return name.lower().removesuffix("executionprovider")
