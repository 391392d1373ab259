"""`robustad reproduce calibration`: every calibrator, before and after, over repeated splits."""

from pathlib import Path
from typing import Annotated

import typer

from robustad.cli import common
from robustad.cli.reproduce import (
    BackboneName,
    Categories,
    FullCoreset,
    ImageSize,
    MaskOverride,
    PreprocessingName,
    Repeats,
    ResultFolder,
    Roots,
    ShotCounts,
    Weights,
    check_data,
    print_tables,
)


def calibration(
    data: Roots = None,
    dataset: common.DatasetName = "folder",
    category: Categories = None,
    shots: ShotCounts = ["1", "4", "16", "full"],  # noqa: B006
    seeds: Repeats = 1,
    method: Annotated[
        list[str], typer.Option("--method", help="Calibrators; the raw score is beside them.")
    ] = ["platt", "temperature", "beta", "isotonic"],  # noqa: B006
    splits: Annotated[int, typer.Option(min=1, help="Times the test images are split.")] = 20,
    fraction: Annotated[
        float, typer.Option(help="Share of the test images to calibrate on in each split.")
    ] = 0.2,
    attack: common.Attacks = ["pgd10", "adaptive"],  # noqa: B006
    eps: common.Eps = "8/255",
    backbone: BackboneName = "vit_small_patch14_dinov2.lvd142m",
    weights: Weights = None,
    image_size: ImageSize = 448,
    preprocessing: PreprocessingName = "none",
    mask: MaskOverride = None,
    full_coreset: FullCoreset = None,
    workers: common.WorkerCount = None,
    engine: common.WorkerEngine = None,
    threads: common.WorkerThreads = None,
    out: ResultFolder = Path("runs/calibration"),
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Calibrate a few-shot detector by every method over repeated splits of its test set.

    Each image is scored once, and attacked once by each attack; the calibrators are fitted anew to
    each split's part of the clean scores and measured on the other part.
    """
    from robustad.reproduce import CalibrationStudy, run_calibration

    check_data(data, dataset)
    study = CalibrationStudy(
        dataset=dataset,
        shots=tuple(common.parse_shots(text) for text in shots),
        seeds=seeds,
        methods=tuple(method),
        splits=splits,
        calibration=fraction,
        attacks=tuple(attack),
        eps=common.parse_eps(eps),
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        preprocessing=preprocessing,  # type: ignore[arg-type]
        mask=mask,
        full_coreset=full_coreset,
    )
    outcome = run_calibration(
        study,
        data or [None],
        out,
        only=category or (),
        device=common.parse_device(device),
        workers=common.parse_workers(workers, engine, threads),
        progress=not quiet,
        say=lambda line: common.say.print(line),
    )
    print_tables(outcome.tables(study.attacks), out, as_json=json)
