"""What an engine has to give a detector, and which engine a file is run by."""

import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy.typing as npt

from robustad.errors import InputError, StateError
from robustad.runtime import _metadata
from robustad.runtime._header import Header

Engine: TypeAlias = Literal["auto", "onnxruntime", "openvino"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
AUTO = "auto"
# The exporter writes 18 or 20. Older sets define some operators otherwise.
OLDEST_OPSET = 18


class Session(Protocol):
    """A file that an engine has opened.

    Attributes
    ----------
    engine : str
        Its name.
    inputs, outputs : list of str
        Of the file; those inputs that have a default are left out.
    providers : list of str
        What it runs on, the preferred one first.
    judges : bool
        Whether it runs all of the graph, and takes other numbers for those of the calibration,
        the held-out scores and the policy. If not, the detector computes what follows from score
        and map by itself; see `robustad.runtime._judgement`.
    """

    engine: str
    inputs: list[str]
    outputs: list[str]
    judges: bool

    @property
    def providers(self) -> list[str]:
        """What it runs on."""
        ...

    def run(self, names: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        """Outputs of these names, as numpy arrays in this order."""
        ...


def check_file(path: str | Path) -> Path:
    """Refuse what is no file, before anything is read."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: expected an ONNX file, got a folder")
    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file")
    return path


def check_opset(path: Path, header: Header) -> None:
    """Refuse a file in operators older than the exporter's."""
    opset = header.opsets.get("", 0)
    if opset < OLDEST_OPSET:
        raise StateError(
            f"{path}: written in ONNX operator set {opset}, expected {OLDEST_OPSET} or newer: not "
            "a file of robustad's, or a tool has converted it"
        )


def choose_engine(engine: str, metadata: Mapping[str, Any], path: Path) -> str:
    """Name of the engine for a file; `auto` is the one that it was made for, where installed."""
    if engine != AUTO:
        if engine not in _metadata.ENGINES:
            known = ", ".join((AUTO, *_metadata.ENGINES))
            raise InputError(f"engine: expected one of {known}, got {engine!r}")
        return engine
    wanted = _metadata.target_engine(metadata)
    if wanted == _metadata.OPENVINO and find_spec("openvino") is None:
        warnings.warn(
            f"{path.name} was made for OpenVINO, which is not installed (pip install "
            "'robustad[openvino]'); running it with onnxruntime, slower or less exact",
            stacklevel=3,
        )
        return _metadata.ONNXRUNTIME
    return wanted
