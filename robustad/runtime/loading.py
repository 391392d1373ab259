"""From an exported file to a detector that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from robustad.conformal.scores import ConformalScores
from robustad.errors import InputError
from robustad.runtime import _metadata
from robustad.runtime._header import read_header
from robustad.runtime._onnxruntime import open_onnxruntime
from robustad.runtime._openvino import open_openvino
from robustad.runtime._overrides import Calibration
from robustad.runtime._session import (
    Engine,
    Precision,
    Session,
    check_file,
    check_opset,
    choose_engine,
)
from robustad.runtime.integrity import Integrity, check_integrity
from robustad.runtime.onnx_detector import OnnxDetector
from robustad.verdict import Policy


def load(
    path: str | Path,
    *,
    engine: Engine = "auto",
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    spinning: bool = True,
    provider_options: Mapping[str, Mapping[str, str]] | None = None,
    io_binding: bool | None = None,
    precision: Precision = "float32",
    calibration: Calibration | None = None,
    conformal: ConformalScores | None = None,
    policy: Policy | None = None,
    integrity: Integrity = "auto",
    sha256: str | None = None,
) -> OnnxDetector:
    """Load a file written by `robustad.export_onnx`.

    Parameters
    ----------
    path : str or Path
        The `.onnx` file; a bank of over 2 GB lies in `.onnx.data` beside it.
    engine : {"auto", "onnxruntime", "openvino"}, default "auto"
        What runs the file. `auto` is the engine that the file was made for, where that is
        installed, else onnxruntime. Both give the same results up to rounding.
    providers : sequence of str, optional
        onnxruntime's execution providers in order of preference, `CUDAExecutionProvider` or
        `cuda` for short; by default CUDA where the installed onnxruntime has it, else the CPU. Of
        OpenVINO its devices, `cpu`, `gpu`, `gpu.1`, `npu` or `auto`; by default the CPU.
        One that is missing or does not start is replaced by the CPU, with a warning.
    threads : int, optional
        Threads inside an operation; by default as many as there are cores.
    spinning : bool, default True
        Whether threads wait busily for their next operation: lower latency, but an idle model
        then slows down other programs on the same cores for a while. Of no meaning to OpenVINO.
    provider_options : mapping, optional
        onnxruntime's options by provider, for instance `{"cuda": {"device_id": "1"}}`; OpenVINO's
        properties as `{"openvino": {"NUM_STREAMS": "2"}}`.
    io_binding : bool, optional
        Keep inputs and outputs in buffers on the device; by default where CUDA runs. Only with
        onnxruntime.
    precision : {"float32", "bfloat16", "float16"}, default "float32"
        What OpenVINO computes in. Left to itself it takes the fastest that the device has, which
        moves scores by far more than verification allows. onnxruntime computes in the file's own.
    calibration : (float, float), mapping or calibrator, optional
        To use in place of the file's own: slope and intercept, for probability =
        sigmoid(slope * score + intercept); what a calibrator's `to_dict` gave, of any method,
        whatever the file was exported with; or such a calibrator.
    conformal : ConformalScores, optional
        Held-out scores to use in place of the file's own, for instance of images taken on this
        line. The policy stays: `conformal.policy(detector.policy, fpr=...)` gives one that fits.
    policy : Policy, optional
        To use in place of the file's own.
    integrity : {"auto", "require", "skip"}, default "auto"
        Compare the file and its `.data` with the SHA-256 manifest beside it: where there is one,
        always (a file without is refused), or never.
    sha256 : str, optional
        SHA-256 that the manifest itself must have, known from a place that nobody who can write
        to this folder can change. Implies `integrity="require"`.

    Returns
    -------
    OnnxDetector
        Ready to predict. It needs neither torch nor the `onnx` package.

    Raises
    ------
    InputError
        If there is no such file or an option is out of range.
    StateError
        If the file is truncated, no ONNX, of an operator set that does not fit, not exported by
        robustad or by a newer version, or differs from its manifest.
    MissingDependencyError
        If the engine is not installed.

    Warns
    -----
    UserWarning
        If a provider that was asked for is not there, or OpenVINO, which the file was made for, is
        not installed.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected >= 1, got {threads}")
    if precision not in get_args(Precision):
        raise InputError(
            f"precision: expected one of {', '.join(get_args(Precision))}, got {precision!r}"
        )
    path = check_file(path)
    check_integrity(path, integrity, sha256=sha256)
    header = read_header(path)
    check_opset(path, header)
    metadata = _metadata.parse(header.metadata, str(path))
    session: Session
    if choose_engine(engine, metadata, path) == _metadata.OPENVINO:
        if io_binding:
            raise InputError("io_binding: expected None or False with OpenVINO, got True")
        session = open_openvino(
            path,
            header,
            metadata,
            providers,
            threads,
            precision=precision,
            provider_options=provider_options,
        )
    else:
        if precision != "float32":
            raise InputError(
                "precision: expected float32 with onnxruntime, which computes in the file's own "
                f"precision, got {precision!r}"
            )
        session = open_onnxruntime(
            path,
            header,
            providers,
            threads,
            spinning=spinning,
            provider_options=provider_options,
            io_binding=io_binding,
        )
    detector = OnnxDetector(session, metadata, name=str(path))
    if calibration is not None:
        detector.calibration = calibration
    if conformal is not None:
        detector.conformal = conformal
    if policy is not None:
        detector.policy = policy
    return detector
