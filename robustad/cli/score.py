"""`robustad score`: a large set of images, by several workers."""

from pathlib import Path
from typing import Annotated

import typer

from robustad.cli import common


def score(
    model: Annotated[Path, typer.Option(help="Exported .onnx file.")],
    data: Annotated[Path, typer.Option(help="Folder with images, also in folders inside.")],
    out: Annotated[Path, typer.Option(help="Folder for shards/, results.jsonl, results.sha256.")],
    engine: Annotated[
        common.Engine, typer.Option(help="Worker processes of this machine, or Ray actors.")
    ] = common.Engine.LOCAL,
    workers: Annotated[int, typer.Option(min=1, help="At a time, each with the model.")] = 2,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Images a shard: what is lost at most when one dies.")
    ] = 256,
    batch_size: common.BatchSize = 8,
    threads: Annotated[int, typer.Option(min=1, help="Of the runtime, in each worker.")] = 1,
    provider: common.Provider = None,
    runtime: common.Runtime = common.Inference.AUTO,
    threshold: common.Threshold = None,
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Score all images below a folder, each exactly once; the same command goes on where it was."""
    from robustad.deploy import score as run
    from robustad.progress import counter

    with counter("shards", enabled=not quiet) as told:
        done = run(
            data,
            model,
            out,
            engine=engine.value,
            workers=workers,
            shard_size=shard_size,
            batch_size=batch_size,
            threads=threads,
            providers=provider,
            runtime=runtime.value,
            threshold=threshold,
            told=told,
        )
    if json:
        common.print_json({**vars(done), "results": str(done.results)})
    common.say.print(
        f"scored {done.scored} images, {done.failed} failed; computed {done.computed} of "
        f"{done.shards} shards; results in {done.results}",
        soft_wrap=True,
    )
