"""`robustad train`: normal images in, an adversarially trained detector out."""

from pathlib import Path
from typing import Annotated

import typer

from robustad.cli import common


def train(
    dataset: common.DatasetName = "surfaces",
    data: common.DataRoot = None,
    category: common.Category = None,
    preset: Annotated[
        str, typer.Option(help="paper, official, robust, fast, or a YAML file of that form.")
    ] = "robust",
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override fields, e.g. --set optimiser.epochs=50 seed=1."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the run; the same one again goes on with it.")
    ] = Path("runs/patchguard"),
    restart: Annotated[bool, typer.Option(help="Begin anew instead of going on.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder to keep foregrounds in; default: beside the data.")
    ] = None,
    device: common.Device = "auto",
    quiet: common.Quiet = False,
) -> None:
    """Train PatchGuard on normal images: pseudo-anomalies, attacked while it learns.

    Every field of a preset can be overridden with --set; the run's folder keeps them all in
    config.yaml. Under `torchrun`, processes share the batches.
    """
    import os
    import shlex

    from robustad.training import train as run

    images = common.load_data(dataset, data, category)
    detector = run(
        images,
        preset,
        out=out,
        overrides=override or (),
        device=common.parse_device(device),
        restart=restart,
        cache=cache,
        progress=not quiet,
        say=lambda line: common.say.print(line),
    )
    if int(os.environ.get("RANK", "0")):  # the first process speaks for all
        return
    rows, columns = detector.network.grid
    file = out / "detector.safetensors"
    common.say.print(f"wrote {file}; {rows} x {columns} patches")
    options = {"--dataset": dataset, "--data": data, "--category": category}
    where = [part for name, value in options.items() if value for part in (name, str(value))]
    following = ["robustad", "evaluate", str(file), *where, "--attack", "pgd100", "pgd100_flip"]
    common.say.print(f"next: {shlex.join(following)}", soft_wrap=True)
