"""How far an exported file is from its detector on given images, and how long both take."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from robustad._files import write_text
from robustad.conformal.scores import evidence
from robustad.detectors import Detector
from robustad.export.onnx import parity_file
from robustad.export.reference import expected_outputs, largest_difference, size_of
from robustad.export.trace import evaluation_mode
from robustad.runtime import OnnxDetector
from robustad.runtime._verdicts import codes_of
from robustad.runtime.golden import golden_outputs, read_golden
from robustad.runtime.integrity import sha256_of

Array = npt.NDArray[Any]
FORMAT = 1
# Images compared at once. One is compared alone too.
BATCH = 4
ROUNDS = 7


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Largest differences of a file's outputs from its detector's; infinite where one is NaN.

    Attributes
    ----------
    score_error, patch_error, map_error : float
        Of scores, patch scores and maps.
    probability_error : float or None
        None without a calibration.
    p_value_error : float or None
        None without held-out scores. p-values jump by 1 / (n + 1) where a score passes another.
    verdict_flips : int
        Images with another verdict.
    """

    score_error: float
    patch_error: float
    map_error: float
    probability_error: float | None
    p_value_error: float | None
    verdict_flips: int


class Reference:
    """What a detector makes of images, to compare files with.

    Parameters
    ----------
    detector : Detector
        The detector; it is not changed.
    images : iterable of array
        One by one, as the files take them. All are kept in memory.

    Attributes
    ----------
    images : list of array
        As given.
    batches : list of array
        Neighbours of one size together, and the first image alone.
    score_scale : float
        The largest score in magnitude, or 1 if that is more: logits are not bounded.
    """

    def __init__(self, detector: Detector, images: Iterable[Array]) -> None:
        self._detector = detector
        self.images = list(images)
        by_size: dict[tuple[int, int], list[Array]] = {}
        for image in self.images:
            by_size.setdefault(size_of(image), []).append(image)
        self.batches = [
            np.concatenate(group[start : start + BATCH])
            for group in by_size.values()
            for start in range(0, len(group), BATCH)
        ]
        self.batches.append(self.images[0])
        self._usual = max(by_size.values(), key=len)
        with _evaluating(detector):
            self._expected = [self._outputs(x) for x in self.batches]
        self.score_scale = max(1.0, *(float(np.abs(e["score"]).max()) for e in self._expected))

    def compare(self, file: OnnxDetector) -> Parity:
        """Differences of a file's outputs."""
        worst: dict[str, float] = {}
        flips = 0
        # the image that is compared alone was counted in its batch
        for x, expected in zip(self.batches, self._expected, strict=True):
            found = file.run(x)
            for name in ("score", "patch_scores", "anomaly_map", "probability", "p_value"):
                difference = largest_difference(expected[name], found[name])
                worst[name] = max(worst.get(name, 0.0), difference)
            if x is not self.batches[-1]:
                flips += int((expected["verdict"] != found["verdict"]).sum())
        detector = self._detector
        return Parity(
            score_error=worst["score"],
            patch_error=worst["patch_scores"],
            map_error=worst["anomaly_map"],
            probability_error=None if detector.calibrator is None else worst["probability"],
            p_value_error=None if detector.conformal is None else worst["p_value"],
            verdict_flips=flips,
        )

    def spread(self, file: OnnxDetector, count: int) -> float:
        """Root mean square difference in score of the first images, up to `count`."""
        gathered: list[npt.NDArray[np.float64]] = []
        for x, expected in zip(self.batches[:-1], self._expected, strict=False):
            found = file.run(x, ["score"])["score"].astype(np.float64)
            gathered.append((found - expected["score"]) ** 2)
            if sum(len(one) for one in gathered) >= count:
                break
        return float(np.sqrt(np.concatenate(gathered).mean()))

    def times(
        self, files: Mapping[str, OnnxDetector], *, batch_size: int, threads: int | None
    ) -> tuple[dict[str, float], float]:
        """Milliseconds an image by file, and of the detector in torch; medians, interleaved.

        Parameters
        ----------
        files : mapping of str to OnnxDetector
            Files by name.
        batch_size : int >= 1
            Images of the size that most have, repeated if they are fewer.
        threads : int or None
            Of torch; None for its own choice.
        """
        x = np.concatenate([self._usual[i % len(self._usual)] for i in range(batch_size)])

        def eager() -> object:
            return expected_outputs(self._detector, x)

        def runner(file: OnnxDetector) -> Callable[[], object]:
            return lambda: file.run(x)

        calls: dict[str | None, Callable[[], object]] = {None: eager}
        calls |= {name: runner(file) for name, file in files.items()}
        seconds: dict[str | None, list[float]] = {name: [] for name in calls}
        with _evaluating(self._detector), _threads(threads):
            for turn in range(ROUNDS + 1):
                for name, call in calls.items():
                    start = time.perf_counter()
                    call()
                    if turn:  # the first run allocates
                        seconds[name].append(time.perf_counter() - start)
        each = {k: 1e3 * statistics.median(v) / batch_size for k, v in seconds.items()}
        return {name: each[name] for name in files}, each[None]

    def _outputs(self, x: Array) -> dict[str, Array]:
        found, conformal = expected_outputs(self._detector, x), self._detector.conformal
        known = evidence(found["score"], found["probability"].astype(np.float64), conformal)
        found["p_value"] = np.full(len(x), np.nan) if conformal is None else known.p_value
        found["verdict"] = codes_of(self._detector.policy.decide(known))
        return found


def own_golden(file: OnnxDetector) -> dict[str, float]:
    """A file's own outputs for its golden image, as they are stored."""
    x, _ = read_golden(file.metadata, "file")
    out = file.run(x, ["score", "patch_scores", "anomaly_map"])
    return golden_outputs(out["score"], out["patch_scores"], out["anomaly_map"])


def write_parity(
    path: str | Path,
    *,
    verification: Mapping[str, Any] | None = None,
    target: Mapping[str, Any] | None = None,
    beside: str | Path | None = None,
) -> Path:
    """Write the parity report of an exported file, `model.onnx.parity.json` beside it.

    What an earlier report of the same file says of the other part stays.

    Parameters
    ----------
    path : str or Path
        The file.
    verification : mapping, optional
        `Verification.to_dict()`.
    target : mapping, optional
        `TargetReport.to_dict()`.
    beside : str or Path, optional
        File to put the report beside, if it is not yet `path`.

    Returns
    -------
    Path
        The report: JSON with `format`, `file`, `sha256` of the file, `verification` and `target`.
    """
    path, out = Path(path), parity_file(path if beside is None else beside)
    report: dict[str, Any] = {"format": FORMAT, "file": path.name, "sha256": sha256_of(path)}
    report |= {"verification": None, "target": None}
    try:
        earlier = json.loads(out.read_text(encoding="utf-8"))
        if earlier["sha256"] == report["sha256"]:
            report |= {name: earlier[name] for name in ("verification", "target")}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or not ours: replaced
    if verification is not None:
        report["verification"] = dict(verification)
    if target is not None:
        report["target"] = dict(target)
    write_text(out, json.dumps(report, indent=2, allow_nan=False) + "\n")
    return out


def plain(parity: Parity) -> dict[str, Any]:
    """Ready for JSON: what is not finite becomes None."""
    return {
        name: None if value is None or not np.isfinite(value) else value
        for name, value in asdict(parity).items()
    }


@contextmanager
def _evaluating(detector: Detector) -> Iterator[None]:
    with torch.no_grad(), evaluation_mode(detector):
        yield


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
