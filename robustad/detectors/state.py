"""Saved detectors: one safetensors file with a validated JSON document in its header."""

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from robustad._files import written_aside
from robustad.calibration import PixelPlatt, calibrator_from_dict
from robustad.conformal.risk import RiskThreshold
from robustad.conformal.scores import ConformalScores
from robustad.detectors.base import Detector
from robustad.errors import InputError, StateError, WeightsError
from robustad.verdict import Policy

# Where each method's class is found; imported only when such a file is loaded.
METHODS = {
    "anomaly_dino": ("robustad.detectors.anomaly_dino", "AnomalyDINO"),
    "bank_ensemble": ("robustad.detectors.ensemble", "BankEnsemble"),
    "patchguard": ("robustad.detectors.patchguard", "PatchGuard"),
    "smoothed": ("robustad.certificates.smoothed", "SmoothedDetector"),
}
HEADER = "robustad"


class DetectorState(BaseModel):
    """The JSON document of a saved detector.

    Attributes
    ----------
    format : 1
        Version of this document.
    method : str
        Name of the detector class, a key of `METHODS`.
    config : dict
        Checked by the detector's own model.
    calibration : dict or None
        A calibrator's `to_dict`.
    policy : dict
        A policy's `to_dict`: how evidence becomes verdicts.
    pixel_calibration : dict or None
        A `PixelPlatt`'s `to_dict`.
    conformal : dict or None
        Held-out scores, `ConformalScores.to_dict`. Left out of the file where there are none, so
        that older versions can read it.
    pixel_threshold : dict or None
        `RiskThreshold.to_dict`; left out likewise.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    method: str
    config: dict[str, Any]
    calibration: dict[str, Any] | None
    policy: dict[str, float | None]
    conformal: dict[str, Any] | None = None
    pixel_threshold: dict[str, Any] | None = None
    pixel_calibration: dict[str, Any] | None = None


def save(detector: Detector, path: str | Path) -> None:
    """Save a detector; see `Detector.save`."""
    pixel = detector.pixel_calibrator
    state = DetectorState(
        method=detector.method,
        config=detector.config().model_dump(mode="json"),
        calibration=None if detector.calibrator is None else detector.calibrator.to_dict(),
        policy=detector.policy.to_dict(),
        conformal=None if detector.conformal is None else detector.conformal.to_dict(),
        pixel_threshold=None
        if detector.pixel_threshold is None
        else detector.pixel_threshold.to_dict(),
        pixel_calibration=None if pixel is None else pixel.to_dict(),
    )
    optional = ("conformal", "pixel_threshold", "pixel_calibration")
    unset = {name for name in optional if getattr(state, name) is None}
    tensors = {name: t.detach().cpu().contiguous() for name, t in detector.saved_tensors().items()}
    with written_aside(path) as aside:
        save_file(tensors, aside, metadata={HEADER: state.model_dump_json(exclude=unset)})


def load(path: str | Path) -> Detector:
    """Load a detector saved by `Detector.save`.

    Parameters
    ----------
    path : str or Path
        A `.safetensors` file.

    Returns
    -------
    Detector
        On the CPU, in evaluation mode.

    Raises
    ------
    InputError
        If there is no such file, or it is an exported one.
    StateError
        If the file is truncated, no robustad detector, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such detector file")
    if path.suffix == ".onnx":
        raise InputError(
            f"{path}: expected a saved detector (.safetensors), got an exported one; "
            "robustad.runtime.load opens it, and predict, attack, audit and certify take it"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StateError(f"{path}: not a readable safetensors file: {error}") from error
    if header is None:
        raise StateError(f"{path}: a safetensors file, but not a detector saved by robustad")
    try:
        state = DetectorState.model_validate_json(header)
    except ValidationError as error:
        raise StateError(
            f"{path}: its header is not what this version saves: {_reason(error)}"
        ) from error
    if state.method not in METHODS:
        raise StateError(
            f"{path}: method {state.method!r} is unknown, expected one of {sorted(METHODS)}"
        )
    module, name = METHODS[state.method]
    kind: type[Detector] = getattr(import_module(module), name)
    try:
        detector = kind.from_config(state.config, tensors)
        detector.policy = Policy.from_dict(state.policy)
        if state.calibration is not None:
            detector.calibrator = calibrator_from_dict(state.calibration)
        if state.conformal is not None:
            detector.conformal = ConformalScores.from_dict(state.conformal)
        if state.pixel_threshold is not None:
            detector.pixel_threshold = RiskThreshold.from_dict(state.pixel_threshold)
        if state.pixel_calibration is not None:
            detector.pixel_calibrator = PixelPlatt.from_dict(state.pixel_calibration)
    except (ValidationError, KeyError, InputError, StateError, WeightsError) as error:
        raise StateError(f"{path}: damaged or of another version: {_reason(error)}") from error
    return detector.eval()


def _reason(error: Exception) -> str:
    """What is wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        return f"{where}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"tensor {error} is missing"
    return str(error)
