"""What an exported file says about itself: one pydantic model, one JSON schema."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from torch import Tensor

import robustad
from robustad._files import write_text
from robustad.calibration.beta import BetaState
from robustad.calibration.isotonic import IsotonicState
from robustad.calibration.pixel import PixelPlattState
from robustad.calibration.platt import PlattState
from robustad.calibration.temperature import TemperatureState
from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.probability import CURVES
from robustad.runtime._metadata import BYTES
from robustad.runtime._verdicts import VERDICTS
from robustad.runtime.golden import golden_image, golden_outputs

InputForm: TypeAlias = Literal["float_nchw", "uint8_nhwc"]
PACKAGES = ("torch", "timm", "onnx", "onnxscript", "numpy")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


class InputContract(_Record):
    """What the file's input takes."""

    name: Literal["image"] = Field(default="image", description="Name of the graph's input.")
    layout: Literal["NCHW", "NHWC"] = Field(
        default="NCHW",
        description="NCHW: prepared images, as `geometry` says. NHWC: images of any size, which "
        "the graph prepares; maps have the size of the image then.",
    )
    dtype: Literal["float32", "uint8"] = Field(
        default="float32", description="float32 with NCHW, uint8 with NHWC."
    )
    colour: Literal["RGB"] = "RGB"
    range: tuple[float, float] = Field(
        default=(0.0, 1.0), description="Mean and standard deviation are applied inside."
    )
    height: int | None = Field(
        description="The only height of prepared images in pixels, or null if it is free."
    )
    width: int | None = Field(
        description="The only width of prepared images in pixels, or null if it is free."
    )


class GeometryRecord(_Record):
    """From an image of any size to the input."""

    size: int = Field(description="Smaller edge after resizing in pixels; both with `square`.")
    multiple: int = Field(description="The centre is cropped to multiples of this many pixels.")
    square: bool = Field(description="Stretch to a square instead of keeping the aspect ratio.")
    resize: Literal["antialiased bicubic a=-0.5"] = "antialiased bicubic a=-0.5"
    crop: Literal["centre"] = "centre"


class BackboneRecord(_Record):
    """Which features the detector uses."""

    name: str = Field(description="`filters`, or the name of a timm model.")
    layers: list[int] | None = Field(description="Feature levels of a CNN.")
    weights_sha256: str | None = Field(
        description="SHA-256 over names, types, shapes and bytes; null without weights."
    )


class PolicyRecord(_Record):
    """How probabilities become verdicts; see `robustad.Policy`."""

    threshold: float = Field(description="Reject from this probability on.")
    entropy_threshold: float | None = Field(description="Defer above this entropy in nats.")
    p_value_threshold: float | None = Field(
        default=None, description="Reject up to this p-value; null for no such rule."
    )
    p_value_defer: float | None = Field(default=None, description="Defer up to this p-value.")
    anomaly_threshold: float | None = Field(
        default=None, description="Accept only up to this p-value as an anomaly."
    )
    suspicion_threshold: float | None = Field(
        default=None, description="Defer up to this p-value of a score as low."
    )


class ConformalRecord(_Record):
    """Scores that p-values are counted among; see `robustad.conformal.ConformalScores`."""

    method: Literal["split", "leave_one_out", "cross"]
    monotone: bool = Field(description="More images to fit on never raise a score.")
    normal: list[float] = Field(description="Of held-out normal images, ascending float32.")
    anomalous: list[float] | None = Field(description="Of held-out anomalies, if there are any.")


class PixelRecord(_Record):
    """From which map value on a pixel is marked; see `robustad.conformal.RiskThreshold`."""

    value: float | Literal["inf", "-inf"]
    loss: str
    alpha: float = Field(description="Bound of the expected loss.")
    n: int = Field(description="Held-out images.")
    risk: float = Field(description="Their mean loss.")


class RawScoreRecord(_Record):
    """The score clipped to [0, 1] stands for the probability."""

    method: Literal["raw"] = "raw"


CalibrationRecord = Annotated[
    PlattState | TemperatureState | BetaState | IsotonicState | RawScoreRecord,
    Field(discriminator="method"),
]


class GoldenRecord(_Record):
    """An input that can be computed anywhere, and what the detector made of it."""

    recipe: Literal["quadratic-256"] = Field(
        default="quadratic-256",
        description="((i*i + 2*j*j + 3*i*j + 50*c) mod 256) / 255 at row i, column j, channel c; "
        "of uint8 images without the division.",
    )
    height: int
    width: int
    outputs: dict[str, float] = Field(
        description="Score, and mean and maximum of patch scores and anomaly map."
    )


class TargetRecord(_Record):
    """What the file was made for, and how far from the detector it was on images of the user's."""

    engine: Literal["onnxruntime", "openvino"] = Field(description="What runs it.")
    target: Literal["cpu", "cuda", "tensorrt", "openvino"]
    precision: Literal["float32", "float16", "int8", "int8_dynamic"] = Field(
        description="Of the backbone; everything behind it is float32."
    )
    weight_bits: Literal[7, 8] | None = Field(
        description="Of int8; 8 bits overflow on CPUs without VNNI. Null otherwise."
    )
    float32_blocks: list[str] = Field(description="Blocks of the backbone left in float32.")
    max_score_error: float = Field(
        description="Bound that the score held, times the largest score where that exceeds 1."
    )
    score_error: float = Field(description="Largest difference in score from the detector.")
    map_error: float = Field(description="Largest difference of a patch score or map value.")
    images: int = Field(description="Images it was compared on.")


class EvaluationRecord(BaseModel):
    """What has been measured, if anything. Evaluated, never certified."""

    model_config = ConfigDict(extra="allow", json_schema_serialization_defaults_required=True)

    attacks: list[dict[str, JsonValue]] = Field(
        default=[], description="Attacks the detector was evaluated under, with their results."
    )


class ArtefactMetadata(_Record):
    """The JSON document under the key `robustad` of an exported file's metadata."""

    schema_version: Literal[1, 2, 3] = Field(
        default=3,
        description="From 2 on verdicts may rest on p-values, probabilities on any calibrator, and "
        "pixels may be calibrated; from 3 on the graph gives verdicts, and may take uint8.",
    )
    method: str = Field(description="Kind of detector, for instance anomaly_dino.")
    config: dict[str, JsonValue] = Field(description="The detector's options.")
    backbone: BackboneRecord | None
    tensors_sha256: str = Field(
        description="SHA-256 of everything the detector was fitted or loaded with, bank included."
    )
    input: InputContract
    geometry: GeometryRecord
    patch_size: int = Field(description="Pixels between neighbouring patches.")
    top_fraction: int | float = Field(
        description="Number (integer) or share of the largest patch scores in the image score."
    )
    map_sigma: float = Field(description="Smoothing of the anomaly map in pixels.")
    calibration: CalibrationRecord | None = Field(
        description="The calibrator; null means that probability and entropy are NaN."
    )
    pixel_calibration: PixelPlattState | None = Field(
        description="What makes the map of probabilities; null without one."
    )
    policy: PolicyRecord
    verdicts: list[Literal["accept", "reject", "defer", "uncalibrated"]] = Field(
        default=[one.value for one in VERDICTS],
        description="What the numbers of the output `verdict` mean: places in this list, from 0.",
    )
    conformal: ConformalRecord | None = Field(
        default=None, description="Null means that p-values are NaN."
    )
    pixel_threshold: PixelRecord | None = None
    evaluation: EvaluationRecord
    golden: GoldenRecord
    custom_ops: list[str] = Field(
        default=[],
        description="Operators of robustad's own that the graph uses: onnxruntime needs their "
        "library to open the file.",
    )
    bank: Literal["float32", "bfloat16", "int8"] = Field(
        default="float32",
        description="Precision in which memory banks are stored; of no meaning without one.",
    )
    target: TargetRecord | None = Field(
        default=None,
        description="Null for files in plain float32. With a target, the golden outputs are the "
        "file's own on that engine.",
    )
    versions: dict[str, str] = Field(description="Of the libraries that wrote the file.")
    created: str = Field(description="UTC, ISO 8601.")


def describe(
    detector: Detector,
    size: tuple[int, int],
    *,
    evaluation: Mapping[str, Any] | None = None,
    input: InputForm = "uint8_nhwc",
) -> ArtefactMetadata:
    """Describe a detector as an exported file of one input size does.

    Parameters
    ----------
    detector : Detector
        Fitted.
    size : (int, int)
        Height and width in pixels of prepared images, the golden one among them.
    evaluation : mapping, optional
        Stored as it is; the key `attacks` lists what the detector was evaluated under.
    input : {"uint8_nhwc", "float_nchw"}, default "uint8_nhwc"
        Form of the file's input.

    Raises
    ------
    InputError
        If `evaluation` cannot be stored as JSON, or no uint8 image is prepared to this size.
    """
    height, width = size
    geometry = detector.geometry
    calibrated = detector.pixel_calibrator
    conformal, pixel = detector.conformal, detector.pixel_threshold
    return ArtefactMetadata(
        method=detector.method,
        config=detector.config().model_dump(mode="json"),
        backbone=_backbone(detector),
        tensors_sha256=tensors_sha256(detector.saved_tensors()),
        input=contract(input, size),
        geometry=GeometryRecord(
            size=geometry.size, multiple=geometry.multiple, square=geometry.square
        ),
        patch_size=height // detector.patch_grid(height, width)[0],
        top_fraction=detector.top_fraction,
        map_sigma=detector.map_sigma,
        calibration=_calibration(detector),
        pixel_calibration=(None if calibrated is None else PixelPlattState(**calibrated.to_dict())),
        policy=PolicyRecord.model_validate(detector.policy.to_dict()),
        conformal=None
        if conformal is None
        else ConformalRecord.model_validate(conformal.to_dict()),
        pixel_threshold=None if pixel is None else PixelRecord.model_validate(pixel.to_dict()),
        evaluation=_evaluation(evaluation),
        golden=_golden(detector, height, width, input),
        versions=_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def contract(input: InputForm, size: tuple[int | None, int | None]) -> InputContract:
    """Describe an input of a form, for prepared images of this height and width; None is free."""
    height, width = size
    if input == BYTES:
        return InputContract(
            layout="NHWC", dtype="uint8", range=(0.0, 255.0), height=height, width=width
        )
    return InputContract(height=height, width=width)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def artefact_schema() -> str:
    """JSON schema of `ArtefactMetadata`, as in `docs/artefact.schema.json`."""
    schema = ArtefactMetadata.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def write_artefact_schema(path: str | Path) -> None:
    """Write the JSON schema to a file."""
    write_text(path, artefact_schema())


def _backbone(detector: Detector) -> BackboneRecord | None:
    from robustad.backbones import Backbone

    backbone = getattr(detector, "backbone", None)
    if not isinstance(backbone, Backbone):
        return None
    config = backbone.config
    return BackboneRecord(
        name=config.name,
        layers=None if config.layers is None else list(config.layers),
        weights_sha256=tensors_sha256(backbone.state_dict()) if backbone.has_weights else None,
    )


def _calibration(detector: Detector) -> CalibrationRecord | None:
    if detector.calibrator is None:
        return None
    state = detector.calibrator.to_dict()
    try:
        found: CalibrationRecord = TypeAdapter(CalibrationRecord).validate_python(state)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(
            f"calibrator: expected one of {', '.join(sorted(CURVES))} or none to export, got "
            f"{state.get('method')!r}: {reason}"
        ) from error
    return found


def _evaluation(evaluation: Mapping[str, Any] | None) -> EvaluationRecord:
    try:
        # JSON knows neither NaN nor numpy's numbers
        plain = json.loads(json.dumps(dict(evaluation or {}), allow_nan=False))
        return EvaluationRecord.model_validate(plain)
    except (TypeError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"evaluation: expected a dict that JSON can hold, with a list `attacks`: {reason}"
        ) from error


@torch.no_grad()
def _golden(detector: Detector, height: int, width: int, input: InputForm) -> GoldenRecord:
    shown, image = (height, width), golden_image(height, width)
    if input == BYTES:
        shown = shown_size(detector, height, width)
        pixels = golden_image(*shown)[0].transpose(1, 2, 0)
        image = np.ascontiguousarray(detector.geometry.apply(pixels).transpose(2, 0, 1)[None])
    patch_scores = detector.patch_scores(torch.from_numpy(image).to(detector.device))
    score = detector.aggregate(patch_scores)
    anomaly_map = detector.anomaly_map(patch_scores, (height, width))
    arrays = [tensor.cpu().numpy() for tensor in (score, patch_scores, anomaly_map)]
    if input == BYTES:
        arrays[2] = detector.geometry.restore(arrays[2][0], *shown)[None]
    return GoldenRecord(height=shown[0], width=shown[1], outputs=golden_outputs(*arrays))


def shown_size(detector: Detector, height: int, width: int) -> tuple[int, int]:
    """Size of an image that is prepared to this size, best one that has to be resized."""
    geometry = detector.geometry
    for factor, more in ((1.3, 3), (1.3, 0), (2, 0), (1, 0)):
        shown = round(factor * height), round(factor * width) + more
        if geometry.crop(*geometry.resized(*shown))[2:] == (height, width):
            return shown
    raise InputError(
        f"image_size: expected one that images are prepared to, got {(height, width)}; the smaller "
        f"edge becomes {geometry.size - geometry.size % geometry.multiple} pixels"
    )


def _versions() -> dict[str, str]:
    found = {"robustad": robustad.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a repackaged distribution
            continue
    return found
