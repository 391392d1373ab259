"""`robustad conformal`: error rates that are promised, from normal images alone."""

from pathlib import Path
from typing import Annotated, Any

import typer

from robustad.cli import common
from robustad.errors import InputError


def conformal(
    detector: Annotated[Path, typer.Argument(help="Detector file; rewritten unless --out.")],
    normal: Annotated[
        list[Path] | None,
        typer.Option(help="Held-out normal images, or folders of them; no anomaly is needed."),
    ] = None,
    shots: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead: the images the detector was fitted on, each scored without itself."
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Leave out this many folds of --shots, not images.")
    ] = None,
    anomalous: Annotated[
        list[Path] | None, typer.Option(help="Held-out anomalous images, for --fnr.")
    ] = None,
    dataset: common.DatasetName = "folder",
    data: common.DataRoot = None,
    category: common.Category = None,
    fraction: Annotated[
        float, typer.Option(help="Share of the data set's test images to hold out.")
    ] = 0.2,
    seed: common.Seed = 0,
    fpr: Annotated[
        float | None, typer.Option(help="Share of normal parts that may be rejected.")
    ] = 0.05,
    confidence: Annotated[
        float | None,
        typer.Option(help="That these very images keep --fpr and --fnr; needs more of them."),
    ] = None,
    defer: Annotated[
        float | None, typer.Option(help="Share of normal parts that may be rejected or deferred.")
    ] = None,
    suspicion: Annotated[
        float | None, typer.Option(help="Share that may be deferred because they score too low.")
    ] = None,
    fnr: Annotated[
        float | None, typer.Option(help="Share of anomalous parts that may be accepted.")
    ] = None,
    pixel_miss: Annotated[
        float | None,
        typer.Option(help="Share of a defect's pixels that may be missed; needs masks (--data)."),
    ] = None,
    pixel_false_alarm: Annotated[
        float | None, typer.Option(help="Share of a normal image's pixels that may be marked.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Detector file to write instead.")] = None,
    batch_size: common.BatchSize = 8,
    device: common.Device = "auto",
    json: common.Json = False,
) -> None:
    """Give a detector p-values and rates that are promised, from normal images alone.

    Give --normal, or --shots, or a data set, a share of whose test images is held out. What each
    number promises, and what it does not, is in docs/guarantees.md.
    """
    from robustad import conformal as methods
    from robustad.detectors import load
    from robustad.images import image_files

    given = [bool(normal), bool(shots), data is not None or dataset != "folder"]
    if sum(given) != 1:
        raise InputError(
            "expected one of --normal, --shots or --data (with --dataset), got "
            f"{'none' if not any(given) else 'several'}"
        )
    if folds is not None and not shots:
        raise InputError("--folds: goes with --shots, got none")
    if pixel_miss is not None and pixel_false_alarm is not None:
        raise InputError("--pixel-miss: goes without --pixel-false-alarm, got both")
    loaded = load(detector).to(common.parse_device(device))

    def files(paths: list[Path] | None) -> list[Path]:
        return [f for path in paths or () for f in (image_files(path) if path.is_dir() else [path])]

    good: list[Any] = files(normal or shots)
    bad: list[Any] = files(anomalous)
    samples: list[Any] = []
    if given[2]:
        samples, good, found = _held_out(dataset, data, category, fraction, seed)
        bad = bad or (found if fnr is not None else [])
    if (pixel_miss is not None) and not samples:
        raise InputError("--pixel-miss: needs a data set with masks (--data), got folders")
    methods.fit(
        loaded,
        good,
        method="split" if not shots else "leave_one_out" if folds is None else "cross",
        folds=folds,
        anomalies=bad or None,
        fpr=fpr,
        confidence=confidence,
        defer=defer,
        suspicion=suspicion,
        fnr=fnr,
        batch_size=batch_size,
    )
    alpha = pixel_miss if pixel_false_alarm is None else pixel_false_alarm
    if alpha is not None:
        _fit_pixels(loaded, samples or good, alpha, miss=pixel_miss is not None)
    loaded.to("cpu").save(out or detector)
    said = _said(loaded, fpr, confidence, fnr)
    if json:
        common.print_json({"promises": said, **_document(loaded)})
        return
    common.say.print(f"wrote {out or detector}: p-values from {len(good)} normal images")
    for sentence in said:
        common.say.print(f"- {sentence}")
    common.say.print("- none of this holds under drift or attack: see docs/guarantees.md")


def _held_out(
    dataset: str, data: Path | None, category: str | None, fraction: float, seed: int
) -> tuple[list[Any], list[Any], list[Any]]:
    """Samples held out of a data set, and the images of its normal and anomalous ones."""
    from robustad.data import calibration_split

    chosen = common.load_data(dataset, data, category)
    used, _ = calibration_split(chosen.test, fraction=fraction, seed=seed)
    good, bad = ([s.image for s in used if s.label == label] for label in (0, 1))
    return [*used], good, bad


def _fit_pixels(detector: Any, images: list[Any], alpha: float, *, miss: bool) -> None:
    from robustad.conformal import fit_pixels
    from robustad.data import Sample

    samples = [
        one if isinstance(one, Sample) else Sample(image=one, label=0, name=str(one))
        for one in images
    ]
    fit_pixels(detector, samples, alpha=alpha, loss="pixel_miss" if miss else "pixel_false_alarm")


def _said(
    detector: Any, fpr: float | None, confidence: float | None, fnr: float | None
) -> list[str]:
    """What is promised, a sentence each."""
    scores = detector.conformal
    said = [f"p-values: {scores.guarantee}"]
    sound = scores.method == "split" or scores.monotone
    if fpr is not None and sound:
        said.append(f"reject: {scores.threshold_for_fpr(fpr, confidence=confidence).guarantee}")
    if fnr is not None:
        said.append(f"accept: {scores.threshold_for_fnr(fnr, confidence=confidence).guarantee}")
    if detector.pixel_threshold is not None:
        said.append(f"pixels: {detector.pixel_threshold.guarantee}")
    return said


def _document(detector: Any) -> dict[str, Any]:
    scores, pixel = detector.conformal, detector.pixel_threshold
    return {
        "policy": detector.policy.to_dict(),
        "method": scores.method,
        "monotone": scores.monotone,
        "normal": len(scores),
        "anomalous": 0 if scores.anomalous is None else len(scores.anomalous),
        "smallest_p_value": scores.smallest_p,
        "pixel_threshold": None if pixel is None else pixel.to_dict(),
    }
