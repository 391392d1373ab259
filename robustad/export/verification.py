"""Whether an exported file scores as the detector does, on real inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from robustad.conformal.scores import evidence
from robustad.detectors import Detector
from robustad.errors import InputError, RobustadError, VerificationError
from robustad.export.calibration import steepness
from robustad.export.metadata import describe, shown_size
from robustad.export.reference import expected_outputs, largest_difference, size_of
from robustad.export.trace import evaluation_mode
from robustad.geometry import resize_bicubic
from robustad.runtime import OnnxDetector, load
from robustad.runtime._metadata import BYTES, ONNXRUNTIME, OPTIONAL_OUTPUTS
from robustad.runtime._session import Engine
from robustad.runtime._verdicts import codes_of
from robustad.runtime.batches import batches, byte_batches, stack

if TYPE_CHECKING:
    from robustad.images import Images

FloatArray = npt.NDArray[np.float32]
# Fields of the metadata that have to be what the detector would be described by now.
DESCRIBED = (
    "method",
    "config",
    "backbone",
    "tensors_sha256",
    "geometry",
    "patch_size",
    "top_fraction",
    "map_sigma",
    "calibration",
    "pixel_calibration",
    "policy",
    "conformal",
    "pixel_threshold",
)
# Of float32 arithmetic on counts.
P_VALUE_TOLERANCE = 1e-6
GENERATED = 3
# Largest difference in score, and of a patch score or map value: of float32 arithmetic in another
# order, and of banks in fewer bits.
STRICT = (1e-5, 1e-4)
SHORT_BANK = (1e-3, 2e-3)
# Other images than those a target was chosen on may differ by more in some patch: this many times.
MAP_SLACK = 2.0


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The outcome of `verify`.

    Attributes
    ----------
    path : str
        The file.
    differences : dict of str to float
        Largest absolute difference of each output between detector and file; infinite where one
        of them is NaN and the other is not. Of `verdict`, 1 where the file's is not what the
        detector's policy makes of the file's own scores and probabilities, else 0.
    tolerances : dict of str to float
        What is allowed.
    mismatches : list of str
        In which points the file's metadata are not the detector's.
    mask_flips : int
        Patches that are scored 0 by one engine only. A patch whose first principal component lies
        within rounding of the foreground threshold may fall on either side.
    images : int
        Images compared, repeated ones counted again.
    shapes : list of (int, int, int)
        Batch size, height and width of every batch compared.
    providers : list of str
        What ran the file: onnxruntime's execution providers, the preferred one first, or
        OpenVINO's device.
    """

    path: str
    differences: dict[str, float]
    tolerances: dict[str, float]
    mismatches: list[str]
    mask_flips: int
    images: int
    shapes: list[tuple[int, int, int]]
    providers: list[str]

    @property
    def failures(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        found = [
            "verdict differs on some images"
            if name == "verdict"
            else f"{name} differs by {difference:.3g} (allowed {self.tolerances[name]:.3g})"
            for name, difference in self.differences.items()
            if not difference <= self.tolerances[name]
        ]
        if found and self.mask_flips:
            found.append(f"{self.mask_flips} patches are foreground in one engine only")
        return found + self.mismatches

    @property
    def passed(self) -> bool:
        """Whether every output and the metadata agree."""
        return not self.failures

    def raise_if_failed(self) -> None:
        """Raise a VerificationError that names the outputs and differences, unless `passed`."""
        if not self.passed:
            raise VerificationError(
                f"{self.path}: disagrees with the detector: {'; '.join(self.failures)}"
            )

    def __str__(self) -> str:
        sizes = sorted({f"{height} x {width}" for _, height, width in self.shapes})
        worst = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        outcome = "agree" if self.passed else "do not agree"
        return (
            f"detector and file {outcome} on {self.images} images in {len(self.shapes)} batches of "
            f"{', '.join(sizes)} pixels; largest differences: {worst}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; an infinite difference becomes None."""
        differences = {k: v if np.isfinite(v) else None for k, v in self.differences.items()}
        shapes = [list(shape) for shape in self.shapes]
        plain = {**asdict(self), "differences": differences, "shapes": shapes}
        return {"passed": self.passed, **plain, "failures": self.failures}


def verify(
    detector: Detector,
    path: str | Path,
    *,
    images: Images | None = None,
    batch_sizes: Sequence[int] = (1, 2, 3, 4, 5),
    score_tolerance: float | None = None,
    map_tolerance: float | None = None,
    engine: Engine = "auto",
    providers: Sequence[str] | None = None,
    threads: int | None = None,
) -> Verification:
    """Compare an exported file with the detector it was exported from.

    Parameters
    ----------
    detector : Detector
        The detector; it is not changed.
    path : str or Path
        The file.
    images : path, folder, PIL image, array, tensor, or an iterable of these, optional
        Images of any sizes, best from the data the detector is for. All are used, and repeated to
        fill the batches. By default a few are generated.
    batch_sizes : sequence of int >= 1, default (1, 2, 3, 4, 5)
        Compared for every image size that occurs.
    score_tolerance : float, optional
        By default 1e-5, or 1e-3 for a file whose bank is not float32, or what `export_fastest`
        was allowed for a file made by it.
        Largest difference in score: absolute, or relative to the largest score where that exceeds
        1, as logits do. Probability and entropy may differ by this times the steepest rise of the
        calibration's curve, if that is more.
    map_tolerance : float, optional
        The same for patch scores and anomaly map; by default 1e-4, or 2e-3, or twice what
        `export_fastest` found.
    engine : {"auto", "onnxruntime", "openvino"}, default "auto"
        See `robustad.runtime.load`.
    providers : sequence of str, optional
        See `robustad.runtime.load`; by default the CPU, also where there is a GPU.
    threads : int, optional
        See `robustad.runtime.load`.

    Returns
    -------
    Verification
        Call `raise_if_failed` on it, or look at `passed`.

    Raises
    ------
    InputError
        If an option is out of range, an image cannot be read, or there is no such file.
    StateError
        If the file is no exported detector.
    MissingDependencyError
        If the engine is not installed.
    """
    sizes = list(batch_sizes)
    if not sizes or min(sizes) < 1:
        raise InputError(f"batch_sizes: expected sizes >= 1, got {sizes}")
    for name, value in (("score_tolerance", score_tolerance), ("map_tolerance", map_tolerance)):
        if value is not None and not value >= 0:
            raise InputError(f"{name}: expected >= 0, got {value}")
    providers = ["cpu"] if providers is None else providers
    file = load(path, engine=engine, providers=providers, threads=threads)
    usual = usual_tolerances(file.metadata)
    score_tolerance = usual[0] if score_tolerance is None else score_tolerance
    map_tolerance = usual[1] if map_tolerance is None else map_tolerance
    names = [
        name
        for name in file.outputs
        if name not in OPTIONAL_OUTPUTS or detector.pixel_calibrator is not None
    ]
    differences, largest = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0)
    flips, shapes = 0, []
    with torch.no_grad(), evaluation_mode(detector):
        mismatches = _mismatches(detector, file, map_tolerance)
        for x in _inputs(detector, file, images, sizes):
            shapes.append((x.shape[0], *size_of(x)))
            expected, found = expected_outputs(detector, x), file.run(x, names)
            if "p_value" in found:
                reach = score_tolerance * max(1.0, _largest(expected["score"]))
                expected["p_value"] = _nearest_p_value(
                    detector, expected["score"], found["p_value"], reach
                )
            if "verdict" in found:
                expected["verdict"] = _verdicts_on(detector, found)
            for name in names:
                worst = largest_difference(expected[name], found[name])
                differences[name] = max(differences[name], worst)
                largest[name] = max(largest[name], _largest(expected[name]))
            flips += _flips(expected["patch_scores"], found["patch_scores"], map_tolerance)
    propagated = score_tolerance * largest["score"] * max(1.0, steepness(detector))
    tolerances = {
        "score": score_tolerance * largest["score"],
        "probability": propagated,
        "entropy": propagated,
        "patch_scores": map_tolerance * largest["patch_scores"],
        "anomaly_map": map_tolerance * largest["anomaly_map"],
    }
    if "p_value" in names:
        tolerances["p_value"] = P_VALUE_TOLERANCE
    if "verdict" in names:
        tolerances["verdict"] = 0.0
    if "probability_map" in names:
        rise = abs(detector.pixel_calibrator.slope) / 4.0 if detector.pixel_calibrator else 0.0
        tolerances["probability_map"] = tolerances["anomaly_map"] * max(1.0, rise)
    return Verification(
        path=str(path),
        differences=differences,
        tolerances=tolerances,
        mismatches=mismatches,
        mask_flips=flips,
        images=sum(batch for batch, _, _ in shapes),
        shapes=shapes,
        providers=file.providers,
    )


def usual_tolerances(metadata: Mapping[str, Any]) -> tuple[float, float]:
    """Differences in score, and of a patch score or map value, that a file may have by default.

    Those of float32 arithmetic, of the bank's precision, and of the target if it has one: the score
    error its user allowed, and twice the map error found when it was chosen.
    """
    score, pixels = STRICT if metadata.get("bank", "float32") == "float32" else SHORT_BANK
    target = metadata.get("target")
    if target is not None and (target["precision"], target["engine"]) != ("float32", ONNXRUNTIME):
        score = max(score, target["max_score_error"])
        pixels = max(pixels, score, MAP_SLACK * target["map_error"])
    return score, pixels


def _mismatches(detector: Detector, file: OnnxDetector, tolerance: float) -> list[str]:
    expected = describe(detector, _usual_size(detector, file)).model_dump(mode="json")
    found = [
        f"metadata: {name} is {_short(file.metadata.get(name))}, the detector's is "
        f"{_short(expected[name])}"
        for name in DESCRIBED
        if file.metadata.get(name) != expected[name]
    ]
    try:
        file.check_golden(tolerance=tolerance)
    except RobustadError as error:
        found.append(f"golden: {error}")
    return found


def _usual_size(detector: Detector, file: OnnxDetector) -> tuple[int, int]:
    return file.image_size or detector.geometry.crop(*[detector.geometry.size] * 2)[2:]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _nearest_p_value(
    detector: Detector, score: FloatArray, found: FloatArray, reach: float
) -> npt.NDArray[np.float64]:
    """The p-values nearest to those found, of scores that differ by `reach` at most.

    p-values jump at every held-out score, so that a score's last digit may move one by 1/(n + 1).
    """
    conformal = detector.conformal
    if conformal is None:
        return np.full(score.shape, np.nan)
    ends = (conformal.p_values(score.astype(np.float64) + way * reach) for way in (1.0, -1.0))
    return np.clip(np.nan_to_num(found.astype(np.float64), nan=2.0), *ends)


def _verdicts_on(detector: Detector, found: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """The detector's policy on the file's own scores and probabilities, whose last digits count."""
    probability = found["probability"].astype(np.float64)
    known = evidence(found["score"], probability, detector.conformal)
    return codes_of(detector.policy.decide(known))


def _largest(expected: npt.NDArray[Any]) -> float:
    finite = np.abs(expected[np.isfinite(expected)])
    return float(finite.max()) if finite.size else 0.0


def _flips(expected: FloatArray, found: FloatArray, tolerance: float) -> int:
    if expected.shape != found.shape:
        return 0
    one_is_zero = (expected == 0) != (found == 0)
    return int((one_is_zero & (np.abs(expected - found) > tolerance)).sum())


def _inputs(
    detector: Detector, file: OnnxDetector, images: Images | None, batch_sizes: list[int]
) -> Iterator[npt.NDArray[Any]]:
    """Batches of every size of image: each batch size occurs, and each image."""
    by_size: dict[tuple[int, int], list[npt.NDArray[Any]]] = {}
    for image in prepared_inputs(detector, file, images):
        by_size.setdefault(size_of(image), []).append(image)
    for group in by_size.values():
        start, pending = 0, list(batch_sizes)
        while pending or start < len(group):
            size = pending.pop(0) if pending else max(batch_sizes)
            yield np.concatenate([group[(start + i) % len(group)] for i in range(size)])
            start += size


def prepared_inputs(
    detector: Detector, file: OnnxDetector, images: Images | None
) -> Iterator[npt.NDArray[Any]]:
    """Images one by one, as the file takes them; generated ones if none are given."""
    whole, geometry = file.input_form == BYTES, detector.geometry
    if images is None:
        for image in _generated(detector, file):
            yield np.rint(image.transpose(0, 2, 3, 1) * 255).astype(np.uint8) if whole else image
        return
    none = True
    for batch in byte_batches(images, 1) if whole else batches(images, geometry, 1):
        none = False
        x = stack(batch)
        height, width = geometry.crop(*geometry.resized(*size_of(x)))[2:] if whole else size_of(x)
        if file.image_size not in (None, (height, width)):
            raise InputError(
                f"{batch[0].name}: prepared to {height} x {width} pixels, but the file "
                f"takes {file.image_size} only"
            )
        yield x
    if none:
        raise InputError("images: expected at least one image, got none")


def _generated(detector: Detector, file: OnnxDetector) -> Iterator[FloatArray]:
    """Smooth colours with a darker object and noise, of one or, if the file allows, two sizes."""
    height, width = _usual_size(detector, file)
    shapes = [(height, width)]
    if file.image_size is None:
        shapes.append((height, width + 2 * detector.geometry.multiple))
    if file.input_form == BYTES:
        shapes = [shown_size(detector, *shape) for shape in shapes]
    rng = np.random.default_rng(0)
    for height, width in shapes:
        for _ in range(GENERATED):
            coarse = rng.random((6, 6, 3)).astype(np.float32)
            pixels = 0.5 + 0.3 * resize_bicubic(coarse, height, width)
            y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            shift_y, shift_x = rng.uniform(-0.2, 0.2, 2)
            inside = (x - shift_x) ** 2 + (y - shift_y) ** 2 < 0.4
            pixels = np.where(inside[..., None], pixels - 0.4, pixels)
            pixels = pixels + 0.03 * rng.standard_normal(pixels.shape)
            clipped = pixels.clip(0.0, 1.0).astype(np.float32)
            yield np.ascontiguousarray(clipped.transpose(2, 0, 1)[None])
