"""`robustad demo`: the main job end to end, with nothing to download."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from robustad.cli import common


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo_out"),
    category: Annotated[
        str, typer.Option(help="Generated images to use: cloth, metal, print or tray.")
    ] = "cloth",
    shots: Annotated[int, typer.Option(min=1, help="Normal images to fit on.")] = 4,
    eps: common.Eps = "8/255",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Fit, attack, calibrate, export and verify a detector on generated images."""
    from robustad.demo import run_demo

    made = run_demo(
        out,
        category=category,
        shots=shots,
        eps=common.parse_eps(eps),
        progress=not quiet,
        say=lambda line: common.say.print(line),
    )
    if json:
        print(made.evaluation.model_dump_json(indent=1))
        return
    Console().print(common.summary_table(made.evaluation))
    common.say.print("torch and onnxruntime agree" if made.verified else "VERIFICATION FAILED")
    common.say.print(f"open {made.report}; the detector is {made.onnx} ({made.detector} for torch)")
