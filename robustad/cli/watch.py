"""`robustad watch`: new images of a folder scored as they land."""

import json as encoder
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from robustad.cli import common


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder in which images land.")],
    model: Annotated[Path, typer.Option(help="Exported .onnx file.")],
    out: Annotated[Path, typer.Option(help="Folder for results.jsonl, results.csv and overlays.")],
    poll: Annotated[float, typer.Option(help="Seconds between looks at the folder.")] = 0.5,
    settle: Annotated[
        float, typer.Option(help="Seconds a file has to stay unchanged before it is read.")
    ] = 1.0,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Watch the folders inside too.")
    ] = False,
    overlays: Annotated[bool, typer.Option(help="Write a heat map over each image.")] = True,
    table: Annotated[
        bool, typer.Option("--csv/--no-csv", help="Write results.csv beside results.jsonl.")
    ] = True,
    once: Annotated[
        bool, typer.Option("--once", help="Stop when every image is dealt with.")
    ] = False,
    batch_size: common.BatchSize = 8,
    queue: Annotated[
        int, typer.Option(min=1, help="Images taken up between two looks at the folder.")
    ] = 64,
    threshold: common.Threshold = None,
    threads: common.Threads = None,
    provider: common.Provider = None,
    runtime: common.Runtime = common.Inference.AUTO,
    require_manifest: common.RequireManifest = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print each record as one line of JSON.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing of single images.")] = False,
) -> None:
    """Score images as they land in a folder, each exactly once, across crashes and restarts.

    SIGTERM and Ctrl-C finish the batch at work. Run the same command again to go on.
    """
    from robustad.deploy import watch as run

    loaded = common.load_onnx(
        model,
        threshold=threshold,
        threads=threads,
        provider=provider,
        engine=runtime,
        require_manifest=require_manifest,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def told(record: dict[str, Any]) -> None:
        if json:
            print(encoder.dumps(record), flush=True)
        elif not quiet:
            outcome = record.get("error") or f"{record['verdict']}, score {record['score']:.4g}"
            common.say.print(f"{record['path']}: {outcome}", markup=False)

    done = run(
        folder,
        loaded,
        out,
        poll=poll,
        settle=settle,
        recursive=recursive,
        batch_size=batch_size,
        queue=queue,
        overlays=overlays,
        table=table,
        once=once,
        stop=stop,
        told=told,
    )
    common.say.print(
        f"scored {done.scored} images, {done.failed} failed, {done.earlier} were done before; "
        f"results in {out}"
    )
