"""`robustad compare`: two evaluations side by side."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from robustad.cli import common


def compare(
    first: Annotated[Path, typer.Argument(help="Evaluation or leaderboard entry, JSON.")],
    second: Annotated[Path, typer.Argument(help="The other one.")],
    json: common.Json = False,
) -> None:
    """Compare two evaluations, and say whether they may be compared at all."""
    from robustad.evaluation.compare import compare as run

    found = run(first, second)
    if json:
        common.print_json(
            {
                "comparable": found.comparable,
                "obstacles": found.obstacles,
                "remarks": found.remarks,
                "rows": [{**asdict(row), "difference": row.difference} for row in found.rows],
            }
        )
        return
    table = Table()
    table.add_column("", no_wrap=True)
    table.add_column("figure")
    for column in ("first", "second", "difference"):
        table.add_column(column, justify="right")
    table.add_column("intervals")
    for row in found.rows:
        table.add_row(
            row.condition,
            row.measure,
            f"{row.first:.3f}",
            f"{row.second:.3f}",
            f"{row.difference:+.3f}",
            {True: "apart", False: "overlap", None: ""}[row.apart],
        )
    Console().print(table)
    for line in found.obstacles:
        common.say.print(f"not comparable: {line}")
    for line in found.remarks:
        common.say.print(f"note: {line}")
