"""`robustad reproduce defences`: what defends a memory bank, measured under attack."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as RichTable

from robustad.cli import common
from robustad.errors import InputError


def defences(
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Folder of the data set; several are taken together."),
    ] = None,
    dataset: common.DatasetName = "folder",
    category: Annotated[
        list[str] | None, typer.Option("--category", help="Only these categories.")
    ] = None,
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
    backbone: Annotated[
        str, typer.Option(help="filters, a timm model, or robustbench/NAME.")
    ] = "vit_small_patch14_dinov2.lvd142m",
    weights: Annotated[
        str | None, typer.Option(help="Checkpoint file; default: downloaded by name.")
    ] = None,
    robust: Annotated[str | None, typer.Option(help="Backbone of the defence `robust`.")] = None,
    robust_weights: Annotated[str | None, typer.Option(help="Its checkpoint file.")] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Smaller edge in pixels.")] = 448,
    mask: Annotated[bool, typer.Option(help="Score only the object in the foreground.")] = False,
    images: Annotated[
        int | None, typer.Option(min=2, help="Take only so many test images of each class.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for results; run again with the same one to go on.")
    ] = Path("runs/defences"),
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Measure defences for memory banks, clean and under attacks that go through them."""
    from robustad.reproduce.defence_kinds import DEFAULT_DEFENCES
    from robustad.reproduce.defences import DefenceStudy, run_defences

    if not data and dataset != "surfaces":
        raise InputError(f"--data: expected the folder of {dataset}, got none")
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
        progress=not quiet,
        say=lambda line: common.say.print(line),
    )
    if json:
        print((out / "tables.json").read_text(encoding="utf-8"), end="")
        return
    for table in outcome.tables():
        shown = RichTable(title=table.title, title_justify="left")
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if index else "left", no_wrap=not index)
        for name, *cells in table.rows:
            shown.add_row(name.partition(":")[0], *cells)
        Console().print(shown)
    common.say.print(f"wrote {out / 'tables.md'} and {out / 'tables.json'}")
