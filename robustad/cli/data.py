"""`robustad data`: list, check and write data sets."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from robustad.cli import EXIT_ERROR, common

app = typer.Typer(help="List, check and write data sets.", no_args_is_help=True)


@app.command(name="list")
def list_sets(json: common.Json = False) -> None:
    """List the data sets that load by name, and their categories."""
    from robustad import data

    found = {name: [] if name == "folder" else data.categories(name) for name in data.names()}
    if json:
        common.print_json(found)
        return
    table = Table("name", "categories")
    for name, categories in found.items():
        table.add_row(name, ", ".join(categories) or "your own images, see docs/data.md")
    Console().print(table)


@app.command()
def check(
    dataset: common.DatasetName = "folder",
    data: common.DataRoot = None,
    category: common.Category = None,
    json: common.Json = False,
) -> None:
    """Decode every image and mask and report what is wrong; exit with code 1 if anything is."""
    from robustad.progress import counter

    chosen = common.load_data(dataset, data, category)
    with counter("check") as moved:
        problems = chosen.check(moved)
    counts = {
        "train": len(chosen.train),
        "test_normal": sum(sample.label == 0 for sample in chosen.test),
        "test_anomalous": sum(sample.label == 1 for sample in chosen.test),
    }
    if json:
        common.print_json({**counts, "problems": problems})
    else:
        for problem in problems:
            print(problem)
        common.say.print(
            f"{chosen.name} {chosen.category}: {counts['train']} training, "
            f"{counts['test_normal']} normal and {counts['test_anomalous']} anomalous test images, "
            f"{len(problems)} problems"
        )
    if problems:
        raise typer.Exit(EXIT_ERROR)


@app.command()
def surfaces(
    out: Annotated[Path, typer.Argument(help="Folder to write to, in MVTec layout.")],
    category: Annotated[
        list[str] | None, typer.Option(help="Categories; default: all of them.")
    ] = None,
    size: Annotated[int, typer.Option(min=64, help="Edge in pixels.")] = 256,
    seed: common.Seed = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Write the generated data set as files."""
    from robustad.data import write_mvtec
    from robustad.data.surfaces import CATEGORIES, Surfaces

    for name in category or CATEGORIES:
        path = write_mvtec(Surfaces(size=size, seed=seed).load(name), out, overwrite=overwrite)
        common.say.print(f"wrote {path}")
