"""`robustad reproduce`: published tables, ours beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from robustad.cli import common
from robustad.errors import InputError

app = typer.Typer(help="Run a published study and print its tables beside ours.")

# What the studies share.
Roots = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Folder of the data set; several are taken together."),
]
Categories = Annotated[list[str] | None, typer.Option("--category", help="Only these categories.")]
ShotCounts = Annotated[
    list[str], typer.Option("--shots", help="Numbers of reference images, or full.")
]
Repeats = Annotated[int, typer.Option("--seeds", min=1, help="Repeats, each with other shots.")]
BackboneName = Annotated[
    str, typer.Option("--backbone", help="filters, a timm model, or robustbench/NAME.")
]
Weights = Annotated[
    str | None, typer.Option("--weights", help="Checkpoint file; default: downloaded by name.")
]
ImageSize = Annotated[int, typer.Option("--image-size", min=1, help="Smaller edge in pixels.")]
PreprocessingName = Annotated[
    str,
    typer.Option(
        "--preprocessing",
        help="agnostic (the few-shot study's), informed, masking_only or none.",
    ),
]
MaskOverride = Annotated[
    bool | None, typer.Option("--mask/--no-mask", help="Override the preprocessing's masking.")
]
FullCoreset = Annotated[
    int | None,
    typer.Option("--full-coreset", min=1, help="Reduce full-shot banks to this many vectors."),
]
ResultFolder = Annotated[
    Path, typer.Option("--out", help="Folder for results; run again with the same one to go on.")
]


class Shown(Protocol):
    """A table, as far as it is printed."""

    @property
    def title(self) -> str:
        """Above the table."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """Headings."""
        ...

    @property
    def rows(self) -> Sequence[Sequence[str]]:
        """Cells, the row's name first."""
        ...


def check_data(data: list[Path] | None, dataset: str) -> None:
    """Raise unless there is a folder, or a data set that needs none."""
    if not data and dataset != "surfaces":
        raise InputError(f"--data: expected the folder of {dataset}, got none")


def print_tables(
    tables: Sequence[Shown], folder: Path, *, as_json: bool, whole_cells: bool = True
) -> None:
    """Print what a study wrote to a folder: its tables, or its JSON document.

    Parameters
    ----------
    tables : sequence of Shown
        In the order printed.
    folder : Path
        With `tables.md` and `tables.json`.
    as_json : bool
        Print the document as it is.
    whole_cells : bool, default True
        Never break a line within a cell; otherwise only within those after the first.
    """
    if as_json:
        print((folder / "tables.json").read_text(encoding="utf-8"), end="")
        return
    for table in tables:
        shown = RichTable(title=escape(table.title), title_justify="left")
        for index, column in enumerate(table.columns):
            shown.add_column(
                escape(column),
                justify="right" if index else "left",
                no_wrap=whole_cells or not index,
            )
        for row in table.rows:
            shown.add_row(*(escape(cell) for cell in row))
        Console().print(shown)
    common.say.print(f"wrote {folder / 'tables.md'} and {folder / 'tables.json'}")


@app.callback()
def root() -> None:
    """Run a published study and print its tables beside ours."""


def fewshot(
    data: Roots = None,
    dataset: common.DatasetName = "mvtec",
    category: Categories = None,
    shots: ShotCounts = ["1", "2", "4", "8", "16"],  # noqa: B006
    seeds: Repeats = 3,
    attack: common.Attacks = ["fgsm_probe", "fgsm", "pgd10"],  # noqa: B006
    eps: common.Eps = "8/255",
    backbone: BackboneName = "vit_small_patch14_dinov2.lvd142m",
    weights: Weights = None,
    image_size: ImageSize = 448,
    preprocessing: PreprocessingName = "agnostic",
    mask: MaskOverride = None,
    full_coreset: FullCoreset = None,
    workers: common.WorkerCount = None,
    engine: common.WorkerEngine = None,
    threads: common.WorkerThreads = None,
    out: ResultFolder = Path("runs/fewshot"),
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Run the few-shot robustness and uncertainty study: its Tables 1-3, published and ours.

    Attacks: the study's own (fgsm_probe) and, beside it, the direct ones on the true score.
    """
    from robustad.reproduce import Study, run_fewshot

    check_data(data, dataset)
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
        workers=common.parse_workers(workers, engine, threads),
        progress=not quiet,
        say=lambda line: common.say.print(line),
    )
    print_tables(outcome.tables(dataset), out, as_json=json, whole_cells=False)
