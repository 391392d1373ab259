"""`robustad reproduce calibration`: every calibrator, before and after, over repeated splits."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as RichTable

from robustad.cli import common
from robustad.errors import InputError


def calibration(
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Folder of the data set; several are taken together."),
    ] = None,
    dataset: common.DatasetName = "folder",
    category: Annotated[
        list[str] | None, typer.Option("--category", help="Only these categories.")
    ] = None,
    shots: Annotated[
        list[str], typer.Option("--shots", help="Numbers of reference images, or full.")
    ] = ["1", "4", "16", "full"],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Repeats, each with other shots.")] = 1,
    method: Annotated[
        list[str], typer.Option("--method", help="Calibrators; the raw score is beside them.")
    ] = ["platt", "temperature", "beta", "isotonic"],  # noqa: B006
    splits: Annotated[int, typer.Option(min=1, help="Times the test images are split.")] = 20,
    fraction: Annotated[
        float, typer.Option(help="Share of the test images to calibrate on in each split.")
    ] = 0.2,
    attack: common.Attacks = ["pgd10", "adaptive"],  # noqa: B006
    eps: common.Eps = "8/255",
    backbone: Annotated[
        str, typer.Option(help="Backbone; `filters` needs no weights.")
    ] = "vit_small_patch14_dinov2.lvd142m",
    weights: Annotated[
        str | None, typer.Option(help="Checkpoint file; default: downloaded by name.")
    ] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Smaller edge in pixels.")] = 448,
    preprocessing: Annotated[
        str, typer.Option(help="agnostic, informed, masking_only or none.")
    ] = "none",
    mask: Annotated[bool | None, typer.Option(help="Override the preprocessing's masking.")] = None,
    full_coreset: Annotated[
        int | None, typer.Option(min=1, help="Reduce full-shot banks to this many vectors.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for results; run again with the same one to go on.")
    ] = Path("runs/calibration"),
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Calibrate a few-shot detector by every method over repeated splits of its test set.

    Each image is scored once, and attacked once by each attack; the calibrators are fitted anew to
    each split's part of the clean scores and measured on the other part.
    """
    from robustad.reproduce import CalibrationStudy, run_calibration

    if not data and dataset != "surfaces":
        raise InputError(f"--data: expected the folder of {dataset}, got none")
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
        progress=not quiet,
        say=lambda line: common.say.print(line),
    )
    if json:
        print((out / "tables.json").read_text(encoding="utf-8"), end="")
        return
    for table in outcome.tables(study.attacks):
        shown = RichTable(title=table.title, title_justify="left")
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in table.rows:
            shown.add_row(*(cell.replace("[", "\\[") for cell in row))
        Console().print(shown)
    common.say.print(f"wrote {out / 'tables.md'} and {out / 'tables.json'}")
