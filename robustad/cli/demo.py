"""`robustad demo`: the main job end to end, with nothing to download."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from robustad.cli import common


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo_out"),
    category: Annotated[
        str, typer.Option(help="Generated images to use: cloth, metal, print, terrazzo or tray.")
    ] = "terrazzo",
    shots: Annotated[int, typer.Option(min=1, help="Normal images to fit on.")] = 4,
    eps: common.Eps = "8/255",
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override fields of the training preset `fast`."),
    ] = None,
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Fit, attack, calibrate, export and verify a detector on generated images; train PatchGuard.

    PatchGuard is trained twice, attacked while it learns and clean, and both are attacked.
    """
    from robustad.demo import run_demo
    from robustad.training.presets import parse_overrides

    made = run_demo(
        out,
        category=category,
        shots=shots,
        eps=common.parse_eps(eps),
        training=parse_overrides(override or ()),
        progress=not quiet,
        say=lambda line: common.say.print(line),
    )
    if json:
        common.print_json([one.model_dump(mode="json") for one in made.evaluations])
        return
    for evaluation in made.evaluations:
        Console().print(common.summary_table(evaluation))
    common.say.print("torch and onnxruntime agree" if made.verified else "VERIFICATION FAILED")
    common.say.print(f"open {made.report}; the detector is {made.onnx} ({made.detector} for torch)")
