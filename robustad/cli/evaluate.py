"""`robustad evaluate`: how good a detector is, clean and under attack."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from robustad.cli import common


def evaluate(
    detector: Annotated[Path, typer.Argument(help="Detector file written by `robustad fit`.")],
    dataset: common.DatasetName = "folder",
    data: common.DataRoot = None,
    category: common.Category = None,
    attack: common.Attacks = ["fgsm_probe", "fgsm", "pgd10"],  # noqa: B006
    clean: Annotated[bool, typer.Option("--clean", help="Run no attack.")] = False,
    eps: common.Eps = "8/255",
    calibration: Annotated[
        float,
        typer.Option(help="Share of the test set to calibrate on; 0 keeps the detector's own."),
    ] = 0.2,
    seed: common.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report.")] = None,
    batch_size: common.BatchSize = 8,
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Evaluate a detector on a labelled test set, clean and under attack.

    A share of the test set is set aside to calibrate and to fix thresholds; the figures come from
    the rest.
    """
    from robustad.data import calibration_split
    from robustad.detectors import load
    from robustad.evaluation import collect_examples
    from robustad.evaluation import evaluate as run

    loaded = load(detector).to(common.parse_device(device))
    chosen = common.load_data(dataset, data, category)
    held_out, samples = chosen.test[:0], chosen.test
    if calibration > 0:
        held_out, samples = calibration_split(chosen.test, fraction=calibration, seed=seed)
    attacks = [] if clean else attack
    result = run(
        loaded,
        samples,
        calibration=held_out,
        attacks=attacks,
        eps=common.parse_eps(eps),
        batch_size=batch_size,
        dataset=chosen.name,
        category=chosen.category,
        progress=not quiet,
    )
    result.settings["command"] = common.command_line()
    if out is not None:
        result.save(out)
        common.say.print(f"wrote {out}")
    if report is not None:
        from robustad.report import write_report

        direct = [name for name in attacks if name != "fgsm_probe"]
        examples = (
            collect_examples(loaded, samples, result, attack_name=direct[-1]) if direct else []
        )
        write_report(result, report, examples=examples)
        common.say.print(f"wrote {report}")
    if json:
        print(result.model_dump_json(indent=1))
    else:
        Console().print(common.summary_table(result))
