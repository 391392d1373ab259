"""`robustad reproduce defences`: what defends a memory bank, measured under attack."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from robustad.cli import common
from robustad.cli.reproduce import (
    BackboneName,
    Categories,
    ImageSize,
    ResultFolder,
    Roots,
    Weights,
    check_data,
    print_tables,
)


def defences(
    data: Roots = None,
    dataset: common.DatasetName = "folder",
    category: Categories = None,
    defence: Annotated[
        list[str] | None,
        typer.Option(
            "--defence",
            # spelled out, as torch must not be imported for a help text; a test compares
            help="none, prune<percent>, density<percent>, k<neighbours>, k<neighbours>max, "
            "bootstrap<banks>, layers, filters, robust or smooth<percent>; by default none, "
            "prune5, prune20, density5, k3, k9, k9max, bootstrap8.",
        ),
    ] = None,
    shots: Annotated[str, typer.Option(help="Number of reference images, or full.")] = "4",
    seed: common.Seed = 0,
    attack: common.Attacks = ["adaptive"],  # noqa: B006
    eps: common.Radii = ["1/255", "8/255"],  # noqa: B006
    backbone: BackboneName = "vit_small_patch14_dinov2.lvd142m",
    weights: Weights = None,
    robust: Annotated[str | None, typer.Option(help="Backbone of the defence `robust`.")] = None,
    robust_weights: Annotated[str | None, typer.Option(help="Its checkpoint file.")] = None,
    image_size: ImageSize = 448,
    mask: Annotated[bool, typer.Option(help="Score only the object in the foreground.")] = False,
    images: Annotated[
        int | None, typer.Option(min=2, help="Take only so many test images of each class.")
    ] = None,
    workers: common.WorkerCount = None,
    engine: common.WorkerEngine = None,
    threads: common.WorkerThreads = None,
    out: ResultFolder = Path("runs/defences"),
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Measure defences for memory banks, clean and under attacks that go through them."""
    from robustad.reproduce.defence_kinds import DEFAULT_DEFENCES
    from robustad.reproduce.defences import DefenceStudy, run_defences

    check_data(data, dataset)
    study = DefenceStudy(
        dataset=dataset,
        defences=tuple(defence or DEFAULT_DEFENCES),
        shots=common.parse_shots(shots),
        seed=seed,
        attacks=tuple(attack),
        eps=tuple(common.parse_eps(text) for text in eps),
        backbone=backbone,
        weights=weights,
        robust=robust,
        robust_weights=robust_weights,
        image_size=image_size,
        mask=mask,
        images=images,
    )
    outcome = run_defences(
        study,
        data or [None],
        out,
        only=category or (),
        device=common.parse_device(device),
        workers=common.parse_workers(workers, engine, threads),
        progress=not quiet,
        say=lambda line: common.say.print(line),
    )
    short = [
        replace(table, rows=[[name.partition(":")[0], *cells] for name, *cells in table.rows])
        for table in outcome.tables()
    ]
    print_tables(short, out, as_json=json, whole_cells=False)
