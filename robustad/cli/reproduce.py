"""`robustad reproduce`: published tables, ours beside them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as RichTable

from robustad.cli import common
from robustad.errors import InputError

app = typer.Typer(help="Run a published study and print its tables beside ours.")


@app.callback()
def root() -> None:
    """Run a published study and print its tables beside ours."""


def fewshot(
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Folder of the data set; several are taken together."),
    ] = None,
    dataset: common.DatasetName = "mvtec",
    category: Annotated[
        list[str] | None, typer.Option("--category", help="Only these categories.")
    ] = None,
    shots: Annotated[
        list[str], typer.Option("--shots", help="Numbers of reference images, or full.")
    ] = ["1", "2", "4", "8", "16"],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Repeats, each with other shots.")] = 3,
    attack: common.Attacks = ["fgsm_probe", "fgsm", "pgd10"],  # noqa: B006
    eps: common.Eps = "8/255",
    backbone: Annotated[
        str, typer.Option(help="Backbone; the study's is DINOv2 ViT-S/14.")
    ] = "vit_small_patch14_dinov2.lvd142m",
    weights: Annotated[
        str | None, typer.Option(help="Checkpoint file; default: downloaded by name.")
    ] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Smaller edge in pixels.")] = 448,
    preprocessing: Annotated[
        str, typer.Option(help="agnostic (the study's), informed, masking_only or none.")
    ] = "agnostic",
    mask: Annotated[bool | None, typer.Option(help="Override the preprocessing's masking.")] = None,
    full_coreset: Annotated[
        int | None, typer.Option(min=1, help="Reduce full-shot banks to this many vectors.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for results; run again with the same one to go on.")
    ] = Path("runs/fewshot"),
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Run the few-shot robustness and uncertainty study: its Tables 1-3, published and ours.

    Attacks: the study's own (fgsm_probe) and, beside it, the direct ones on the true score.
    """
    from robustad.reproduce import Study, run_fewshot

    if not data and dataset != "surfaces":
        raise InputError(f"--data: expected the folder of {dataset}, got none")
    study = Study(
        dataset=dataset,
        shots=tuple(common.parse_shots(text) for text in shots),
        seeds=seeds,
        attacks=tuple(attack),
        eps=common.parse_eps(eps),
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        preprocessing=preprocessing,  # type: ignore[arg-type]
        mask=mask,
        full_coreset=full_coreset,
    )
    outcome = run_fewshot(
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
    for table in outcome.tables(dataset):
        shown = RichTable(title=table.title, title_justify="left")
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if index else "left")
        for row in table.rows:
            shown.add_row(*row)
        Console().print(shown)
    common.say.print(f"wrote {out / 'tables.md'} and {out / 'tables.json'}")
