"""`robustad calibrate`: give a detector's score a meaning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from robustad.cli import common
from robustad.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from robustad.calibration import ScoreCalibrator
    from robustad.calibration.measures import Measured
    from robustad.data import Sample
    from robustad.detectors import Detector

FOLDS = 5


def calibrate(
    detector: Annotated[Path, typer.Argument(help="Detector file; rewritten unless --out.")],
    normal: Annotated[
        Path | None, typer.Option(help="Folder of held-out normal images (with --anomalous).")
    ] = None,
    anomalous: Annotated[
        Path | None, typer.Option(help="Folder of held-out anomalous images.")
    ] = None,
    dataset: common.DatasetName = "folder",
    data: common.DataRoot = None,
    category: common.Category = None,
    fraction: Annotated[
        float, typer.Option(help="Share of the data set's test images to calibrate on.")
    ] = 0.2,
    seed: common.Seed = 0,
    method: Annotated[
        str,
        typer.Option(
            help="Form of the curve: platt, temperature (logits), beta (bounded scores), isotonic "
            "(1000 images or more), or auto: the best by cross-validated likelihood."
        ),
    ] = "platt",
    pixels: Annotated[
        bool,
        typer.Option("--pixels", help="Also give pixels a probability; needs a data set's masks."),
    ] = False,
    bootstrap: Annotated[
        int,
        typer.Option(
            min=0, help="Resampled calibration sets for an interval of the probability; 0 for none."
        ),
    ] = 200,
    threshold: Annotated[
        float, typer.Option(help="Probability from which a part is rejected.")
    ] = 0.5,
    entropy_false_alarm: Annotated[
        float, typer.Option(help="Share of clean images that may be deferred; sets the flag.")
    ] = 0.05,
    defect_rate: Annotated[
        float | None,
        typer.Option(help="Share of defective parts on the line, if it differs from the images'."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Detector file to write instead.")] = None,
    batch_size: common.BatchSize = 8,
    device: common.Device = "auto",
    json: common.Json = False,
) -> None:
    """Fit the map from score to probability on held-out, labelled images.

    Give either --normal and --anomalous folders, or a data set, a share of whose test images is
    used; the measures before and after then come from the other images. With folders they come
    from the same images by cross-validation: each has its probability from a curve that was fitted
    to others.
    """
    from robustad import calibration
    from robustad.calibration.choose import choose
    from robustad.detectors import load

    loaded = load(detector).to(common.parse_device(device))
    images = _images(loaded, normal, anomalous, dataset, data, category, fraction, seed, batch_size)
    losses: dict[str, float] = {}
    chosen: str | ScoreCalibrator[Any] = method
    if method == "auto":
        choice = choose(images.scores, images.labels, detector=loaded)
        chosen, losses = choice.calibrator, choice.nll
    calibration.calibrate(
        loaded,
        images.scores,
        images.labels,
        method=chosen,
        threshold=threshold,
        entropy_false_alarm=entropy_false_alarm,
        defect_rate=defect_rate,
        bootstrap=_draws(bootstrap, images.labels),
    )
    found = loaded.calibrator
    assert isinstance(found, calibration.ScoreCalibrator)
    measures = images.measured(found, batch_size)
    if measures and images.held_out and defect_rate is None:
        plain = [{name: one.value for name, one in part.items()} for part in measures]
        loaded.calibrator = found = found.with_measures(before=plain[0], after=plain[1])
    if pixels:
        calibration.calibrate_pixels(loaded, images.samples, seed=seed, defect_rate=defect_rate)
    loaded.to("cpu").save(out or detector)
    if json:
        _print_json(loaded, found, measures, images, losses)
        return
    common.say.print(
        f"wrote {out or detector}: {found!r}, from {images.labels.count(0)} normal and "
        f"{images.labels.count(1)} anomalous images"
    )
    if losses:
        tried = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        common.say.print(f"cross-validated negative log-likelihood: {tried}")
    pixel = loaded.pixel_calibrator
    if pixels and pixel is not None:
        common.say.print(
            f"pixels: {pixel!r}, from {pixel.n_sampled} of the {pixel.n_normal + pixel.n_anomalous}"
            f" pixels of {pixel.n_images} images, anomalous share {pixel.prevalence:.2g}"
        )
    if measures:
        Console(stderr=True, highlight=False).print(_table(measures, images.described))
    if defect_rate is not None:
        common.say.print(
            f"measured at the images' own share of defects; the saved curve assumes {defect_rate:g}"
        )


@dataclass(frozen=True, kw_only=True)
class _Images:
    """What is calibrated on, and what is measured on."""

    detector: Detector
    scores: list[float]
    labels: list[int]
    samples: Sequence[Sample] = ()
    held_out: Sequence[Sample] = ()

    @property
    def described(self) -> str:
        """Where the measures come from."""
        if self.held_out:
            return f"{len(self.held_out)} other images"
        return f"the same {len(self.labels)} images, {FOLDS}-fold cross-validation"

    def measured(
        self, found: ScoreCalibrator[Any], batch_size: int
    ) -> tuple[dict[str, Measured], dict[str, Measured]] | None:
        """Measures of the raw score and of the probability; None with too few images.

        Both at the images' own share of defects: at another one no curve could be right on them.
        """
        from robustad.calibration import RawScore, cross_probabilities
        from robustad.calibration.measures import measured

        if self.held_out:
            labels = [sample.label for sample in self.held_out]
            images = [sample.image for sample in self.held_out]
            raw = np.asarray(_score(self.detector, images, batch_size))
            p = found.with_prior(float(np.mean(self.labels))).predict_proba(raw)
        elif min(self.labels.count(0), self.labels.count(1)) < 2:
            return None
        else:
            labels, raw = self.labels, np.asarray(self.scores)
            p = cross_probabilities(found, raw, labels, folds=FOLDS)
        return measured(RawScore().predict_proba(raw), labels), measured(p, labels)


def _images(
    detector: Detector,
    normal: Path | None,
    anomalous: Path | None,
    dataset: str,
    data: Path | None,
    category: str | None,
    fraction: float,
    seed: int,
    batch_size: int,
) -> _Images:
    from robustad.data import calibration_split

    if (normal is None) != (anomalous is None):
        raise InputError("expected both --normal and --anomalous, got one of them")
    if normal is not None:
        good, bad = (_score(detector, folder, batch_size) for folder in (normal, anomalous))
        labels = [0] * len(good) + [1] * len(bad)
        return _Images(detector=detector, scores=good + bad, labels=labels)
    if data is None and dataset == "folder":
        raise InputError("expected --normal and --anomalous folders, or --dataset and --data")
    chosen = common.load_data(dataset, data, category)
    used, held_out = calibration_split(chosen.test, fraction=fraction, seed=seed)
    return _Images(
        detector=detector,
        scores=_score(detector, [sample.image for sample in used], batch_size),
        labels=[sample.label for sample in used],
        samples=used,
        held_out=held_out,
    )


def _score(detector: Detector, images: Any, batch_size: int) -> list[float]:
    from robustad.detectors.seen import warn_of_fitted

    predicted = detector.predict(images, batch_size=batch_size)
    warn_of_fitted(detector, predicted, "held-out images")
    scores: list[float] = predicted.score.tolist()
    return scores


def _draws(bootstrap: int, labels: list[int]) -> int:
    """No interval where there is nothing to draw from."""
    if bootstrap and min(labels.count(0), labels.count(1)) < 2:
        common.say.print("no interval of the probability: a label has fewer than 2 images")
        return 0
    return bootstrap


def _table(measures: tuple[dict[str, Measured], dict[str, Measured]], described: str) -> Table:
    from robustad.calibration.measures import TITLES

    table = Table(title=f"on {described}; 95% bootstrap intervals over them", title_justify="left")
    table.add_column("lower is better", no_wrap=True)
    for column in ("before calibration", "after calibration"):
        table.add_column(column, justify="right")
    before, after = measures
    for name, title in TITLES.items():
        cells = [
            f"{one.value:.3f} [{one.interval.low:.3f}, {one.interval.high:.3f}]"
            for one in (before[name], after[name])
        ]
        table.add_row(title, *(cell.replace("[", "\\[") for cell in cells))
    return table


def _print_json(
    detector: Detector,
    found: ScoreCalibrator[Any],
    measures: tuple[dict[str, Measured], dict[str, Measured]] | None,
    images: _Images,
    losses: dict[str, float],
) -> None:
    pixel = detector.pixel_calibrator
    document: dict[str, Any] = {
        "calibration": found.to_dict(),
        "pixel_calibration": None if pixel is None else pixel.to_dict(),
        "threshold": detector.policy.threshold,
        "entropy_threshold": detector.policy.entropy_threshold,
        "measures": None,
    }
    if measures:
        document["measures"] = {
            "images": images.described,
            **{
                when: {
                    name: {"value": one.value, "low": one.interval.low, "high": one.interval.high}
                    for name, one in part.items()
                }
                for when, part in zip(("before", "after"), measures, strict=True)
            },
        }
    if losses:
        document["cross_validated_nll"] = losses
    common.print_json(document)
