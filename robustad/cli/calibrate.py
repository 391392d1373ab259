"""`robustad calibrate`: give a detector's score a meaning."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from robustad.cli import common
from robustad.errors import InputError


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
    """Fit the map from score to probability on held-out, labelled images (Platt scaling).

    Give either --normal and --anomalous folders, or a data set, a share of whose test images is
    used; the figures printed then come from the other images.
    """
    from robustad import calibration
    from robustad.data import calibration_split
    from robustad.detectors import Detector, load
    from robustad.metrics import brier, ece_positive, nll

    loaded = load(detector).to(common.parse_device(device))

    def score(images: object) -> list[float]:
        scores: list[float] = loaded.predict(images, batch_size=batch_size).score.tolist()  # type: ignore[arg-type]
        return scores

    held_out = None
    if (normal is None) != (anomalous is None):
        raise InputError("expected both --normal and --anomalous, got one of them")
    if normal is not None:
        good, bad = score(normal), score(anomalous)
        scores, labels = good + bad, [0] * len(good) + [1] * len(bad)
    elif data is None and dataset == "folder":
        raise InputError("expected --normal and --anomalous folders, or --dataset and --data")
    else:
        chosen = common.load_data(dataset, data, category)
        used, held_out = calibration_split(chosen.test, fraction=fraction, seed=seed)
        scores = score([sample.image for sample in used])
        labels = [sample.label for sample in used]
    calibrated: Detector = calibration.calibrate(
        loaded,
        scores,
        labels,
        threshold=threshold,
        entropy_false_alarm=entropy_false_alarm,
        defect_rate=defect_rate,
    )
    calibrator = calibrated.calibrator
    if held_out is not None and isinstance(calibrator, calibration.Platt):
        raw = np.array(score([sample.image for sample in held_out]))
        truth = [sample.label for sample in held_out]
        measured = {
            when: {
                "ece_positive": ece_positive(p, truth),
                "nll": nll(p, truth),
                "brier": brier(p, truth),
            }
            for when, p in (("before", raw.clip(0, 1)), ("after", calibrated.probability(raw)))
        }
        loaded.calibrator = calibrator = calibrator.with_measures(**measured)
    loaded.to("cpu").save(out or detector)
    assert calibrator is not None
    state = calibrator.to_dict()
    if json:
        policy = loaded.policy
        common.print_json(
            {
                "calibration": state,
                "threshold": policy.threshold,
                "entropy_threshold": policy.entropy_threshold,
            }
        )
        return
    common.say.print(
        f"wrote {out or detector}: p = sigmoid({state['slope']:.4g} * score "
        f"{state['intercept']:+.4g}), from {labels.count(0)} normal and {labels.count(1)} "
        "anomalous images"
    )
    for when in ("before", "after"):
        if state.get(when):
            figures = ", ".join(f"{name} {value:.3f}" for name, value in state[when].items())
            common.say.print(
                f"{when} calibration, on {len(held_out or ())} other images: {figures}"
            )
