"""`robustad audit`: how far any model can be pushed."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from robustad.cli import common


def audit(
    model: Annotated[
        str,
        typer.Argument(help="A saved .safetensors detector, an exported .onnx, or module:callable"),
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of images.")],
    minutes: Annotated[float, typer.Option(help="Time for attacks.")] = 5.0,
    eps: Annotated[
        list[str], typer.Option("--eps", help="Radii as fractions of the pixel range.")
    ] = ["1/255", "2/255", "4/255", "8/255"],  # noqa: B006
    threshold: Annotated[
        float | None,
        typer.Option(help="Image score from which the verdict is anomalous; default the model's."),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack", help=f"In place of those that fit the model: {common.ATTACK_NAMES}"
        ),
    ] = None,
    image_size: Annotated[
        int, typer.Option(min=8, help="For module:callable: edge of the squares it takes.")
    ] = 224,
    seed: common.Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for audit.json and report.html.")] = Path(
        "audit"
    ),
    batch_size: common.BatchSize = 8,
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Attack a model with whatever it gives away, and say how it fared.

    Finds out whether gradients, scores or verdicts can be had, runs the strongest attacks that fit
    within the time, and writes JSON and an HTML report.
    """
    from robustad.evaluation.audit import audit as run
    from robustad.evaluation.target import load_target
    from robustad.report.audit import write_audit_report

    target = load_target(model, image_size=image_size)
    found = run(
        target.to(common.parse_device(device)),
        data,
        minutes=minutes,
        eps=[common.parse_eps(text) for text in eps],
        threshold=threshold,
        attacks=attack,
        batch_size=batch_size,
        seed=seed,
        progress=not quiet,
    )
    found.save(out / "audit.json")
    write_audit_report(found, out / "report.html")
    common.say.print(f"wrote {out / 'audit.json'} and {out / 'report.html'}")
    if json:
        print(found.model_dump_json(indent=1))
        return
    table = Table()
    for column in ("radius", "flipped", "push in sd"):
        table.add_column(column, justify="right")
    for place, one in enumerate(found.eps):
        flipped = "-" if found.threshold is None else f"{found.flipped(one)} of {found.right}"
        table.add_row(f"{one * 255:.4g}/255", flipped, f"{found.push(place):.2f}")
    Console().print(table)
    Console().print(found.verdict())
