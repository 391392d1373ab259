"""`robustad evaluate`: how good a detector is, clean and under attack."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from robustad.cli import common
from robustad.errors import InputError


def evaluate(
    detector: Annotated[Path, typer.Argument(help="Detector file written by `robustad fit`.")],
    dataset: common.DatasetName = "folder",
    data: common.DataRoot = None,
    category: common.Category = None,
    attack: common.Attacks = ["fgsm_probe", "fgsm", "pgd10"],  # noqa: B006
    clean: Annotated[bool, typer.Option("--clean", help="Run no attack.")] = False,
    eps: common.Radii = ["8/255"],  # noqa: B006
    restarts: Annotated[int, typer.Option(min=1, help="Of attacks that take restarts.")] = 1,
    precision: Annotated[
        str, typer.Option(help="fp32 or bf16: of the search; scores are always float32.")
    ] = "fp32",
    skip_beaten: Annotated[
        bool,
        typer.Option(
            "--skip-beaten",
            help="Worst-case AUROC alone: leave out images that cannot count for less.",
        ),
    ] = False,
    surrogate: common.Surrogates = None,
    selfcheck: Annotated[
        bool, typer.Option("--selfcheck", help="Look for gradient masking with small attacks.")
    ] = False,
    calibration: Annotated[
        float,
        typer.Option(help="Share of the test set to calibrate on; 0 keeps the detector's own."),
    ] = 0.2,
    seed: common.Seed = 0,
    store: Annotated[
        Path | None, typer.Option(help="Folder for finished parts; the same command goes on there.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Take from --store what is finished.")] = True,
    shard: common.Shard = None,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Other stores to copy into --store first.")
    ] = None,
    workers: common.WorkerCount = None,
    engine: common.WorkerEngine = None,
    threads: common.WorkerThreads = None,
    out: Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")] = None,
    leaderboard: Annotated[
        Path | None, typer.Option(help="Write a leaderboard entry to this JSON file.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report.")] = None,
    batch_size: common.BatchSize = 8,
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Evaluate a detector on a labelled test set, clean and under attack.

    A share of the test set is set aside to calibrate and to fix thresholds; the figures come from
    the rest. With --store an interrupted run goes on where it stopped; with --workers several
    processes share the work, with --engine ray a cluster. With --shard machines share it that
    know nothing of each other, and the same command without --shard sums up.
    """
    from robustad import evaluation
    from robustad.data import calibration_split
    from robustad.detectors import load

    if store is None and (shard is not None or merge):
        raise InputError(f"{'--shard' if shard else '--merge'}: expected --store with it, got none")
    if shard is not None and skip_beaten:
        raise InputError("--skip-beaten: needs the scores of all images, it can't be sharded")
    part = None if shard is None else common.parse_shard(shard)
    radii = [common.parse_eps(text) for text in eps]
    place = common.parse_device(device)
    who = common.parse_workers(workers, engine, threads)
    loaded = load(detector).to(place)
    chosen = common.load_data(dataset, data, category)
    held_out, samples = chosen.test[:0], chosen.test
    if calibration > 0:
        held_out, samples = calibration_split(chosen.test, fraction=calibration, seed=seed)
    attacks = [] if clean else attack
    if store is not None and merge:
        copied = evaluation.merge_stores(store, *merge)
        common.say.print(f"copied {copied} finished parts to {store}")
    shared: dict[str, Any] = {
        "calibration": held_out,
        "attacks": attacks,
        "eps": radii,
        "batch_size": batch_size,
        "restarts": restarts,
        "seed": seed,
        "precision": precision,
        "surrogates": [load(one).to(place) for one in surrogate or ()],
        "store": store,
        "resume": resume,
        "workers": who,
        "progress": not quiet,
    }
    if part is not None:
        computed = evaluation.evaluate_shard(loaded, samples, shard=part, **shared)
        common.say.print(f"shard {shard} is complete, {computed} units computed now, in {store}")
        return
    result = evaluation.evaluate(
        loaded,
        samples,
        skip_beaten=skip_beaten,
        dataset=chosen.name,
        category=chosen.category,
        **shared,
    )
    if selfcheck:
        from robustad.evaluation.checks import merged

        asked = evaluation.selfcheck(loaded, samples, eps=radii[0], batch_size=batch_size)
        result.checks = merged(result.checks, asked)
    result.settings["command"] = common.command_line()
    _write(result, out, leaderboard)
    if report is not None:
        from robustad.attacks import preset
        from robustad.report import write_report

        simple = [name for name in attacks if not preset(name).needs - {"mask"}]
        examples = (
            evaluation.collect_examples(loaded, samples, result, attack_name=simple[-1])
            if simple
            else []
        )
        write_report(result, report, examples=examples)
        common.say.print(f"wrote {report}")
    if json:
        print(result.model_dump_json(indent=1))
    else:
        Console().print(common.summary_table(result))
    for check in result.fired:
        common.say.print(f"warning: {check.name}: {check.sentence}")


def _write(result: Any, out: Path | None, leaderboard: Path | None) -> None:
    if out is not None:
        result.save(out)
        common.say.print(f"wrote {out}")
    if leaderboard is not None:
        from robustad.evaluation.leaderboard import Entry

        Entry.of(result).save(leaderboard)
        common.say.print(f"wrote {leaderboard}")
