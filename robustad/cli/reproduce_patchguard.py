"""`robustad reproduce patchguard`: the adversarial-training study's tables, ours beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustad.cli import common
from robustad.cli.reproduce import Categories, Roots, check_data, print_tables

if TYPE_CHECKING:
    from robustad.reproduce.patchguard_plan import Run
    from robustad.reproduce.tables import Table


def patchguard(
    table: Annotated[
        list[str],
        typer.Option("--table", help="Tables to make: main, 7, 8, 9, 10, 11, 12, 19, 20, 21."),
    ] = ["main"],  # noqa: B006
    data: Roots = None,
    dataset: common.DatasetName = "mvtec",
    category: Categories = None,
    preset: Annotated[
        str, typer.Option(help="paper, robust, official, fast, or a YAML file of that form.")
    ] = "robust",
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override fields, e.g. --set optimiser.epochs=50 seed=1."),
    ] = None,
    attack: common.Attacks = ["pgd1000_flip", "pgd1000"],  # noqa: B006
    list_runs: Annotated[
        bool, typer.Option("--list", help="List the runs and whether they are done; run nothing.")
    ] = False,
    shard: Annotated[
        str, typer.Option(help="I/N: only runs I, I + N, I + 2 N, ..., e.g. 2/4 for the 2nd of 4.")
    ] = "1/1",
    workers: common.WorkerCount = None,
    engine: common.WorkerEngine = None,
    threads: common.WorkerThreads = None,
    batch_size: common.BatchSize = 16,
    out: Annotated[
        Path, typer.Option(help="Folder for models and results; the same one again goes on.")
    ] = Path("runs/patchguard_tables"),
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Train and evaluate what PatchGuard's tables need, and print them beside the published ones.

    Attacks: the published one (flip, on the patches) and the direct one on the image score.
    Runs that several tables share are made once; what is on disk is not made again.
    """
    from robustad.reproduce.patchguard import list_patchguard, run_patchguard
    from robustad.reproduce.patchguard_plan import PatchGuardStudy

    if not list_runs:
        check_data(data, dataset)
    part = common.parse_shard(shard)
    study = PatchGuardStudy(
        dataset=dataset,
        tables=tuple(table),
        preset=preset,
        overrides=tuple(override or ()),
        attacks=tuple(attack),
        batch_size=batch_size,
    )
    roots: list[Path | None] = [*data] if data else [None]
    if list_runs:
        found = list_patchguard(study, roots, out, only=category or ())
        _print_runs(found[part[0] - 1 :: part[1]], as_json=json)
        return
    run_patchguard(
        study,
        roots,
        out,
        only=category or (),
        shard=part,
        device=common.parse_device(device),
        workers=common.parse_workers(workers, engine, threads),
        progress=not quiet,
        say=lambda line: common.say.print(line),
    )
    folder = out / dataset
    print_tables(_tables(folder), folder, as_json=json, whole_cells=False)


def _print_runs(runs: list[tuple[Run, Path | None, bool]], *, as_json: bool) -> None:
    states = [
        "done" if done else "not yet" if folder is None else "begun" for _, folder, done in runs
    ]
    if as_json:
        common.print_json(
            [
                {
                    "index": run.index,
                    "category": run.category,
                    "rows": [list(row) for row in run.rows],
                    "folder": None if folder is None else str(folder),
                    "state": state,
                }
                for (run, folder, _), state in zip(runs, states, strict=True)
            ]
        )
        return
    for (run, _, _), state in zip(runs, states, strict=True):
        print(f"{run.index:4d}  {state:7s}  {run.name}")


def _tables(folder: Path) -> list[Table]:
    import json

    from robustad.reproduce.tables import Table

    document = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    return [Table(**one) for one in document["tables"]]
