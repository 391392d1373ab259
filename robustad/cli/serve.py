"""`robustad serve`: exported detectors behind HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from robustad.cli import common
from robustad.errors import InputError


def serve(
    model: Annotated[
        list[str],
        typer.Argument(help="Exported .onnx files; NAME=FILE gives one another name than its own."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for other machines too.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    batch_size: common.BatchSize = 8,
    delay: Annotated[
        float, typer.Option(min=0, help="Milliseconds that a model waits for more images.")
    ] = 2.0,
    queue: Annotated[
        int, typer.Option(min=1, help="Images that may wait for a model; beyond: 503.")
    ] = 64,
    requests: Annotated[
        int, typer.Option(min=1, help="Requests at the same time; beyond: 503.")
    ] = 32,
    body: Annotated[float, typer.Option(help="Largest request in MiB; beyond: 413.")] = 64,
    images: Annotated[int, typer.Option(min=1, help="Images in a request; beyond: 413.")] = 32,
    megapixels: Annotated[float, typer.Option(help="Of an image; beyond: 413.")] = 40,
    timeout: Annotated[float, typer.Option(help="Seconds for an answer; beyond: 504.")] = 60,
    threshold: common.Threshold = None,
    threads: common.Threads = None,
    provider: common.Provider = None,
    runtime: common.Runtime = common.Inference.AUTO,
    require_manifest: common.RequireManifest = False,
) -> None:
    """Serve exported detectors over HTTP: KServe V2, image upload at /score, Prometheus metrics.

    There is no authentication and no encryption: put a proxy in front where others can reach it.
    SIGTERM and Ctrl-C finish the requests at work.
    """
    from robustad.serve import Limits
    from robustad.serve import serve as run

    limits = Limits(
        body_bytes=int(body * 2**20),
        images=images,
        pixels=int(megapixels * 1e6),
        requests=requests,
        queue=queue,
        batch=batch_size,
        delay=delay / 1000,
        seconds=timeout,
    )
    models = {}
    for text in model:
        name, equals, file = text.partition("=")
        path = Path(file if equals else text)
        name = name if equals else path.stem
        if not name or "/" in name:
            raise InputError(f"model: expected a name without slashes, got {name!r}")
        if name in models:
            raise InputError(f"model: two models are called {name}; give one as NAME=FILE")
        models[name] = common.load_onnx(
            path,
            threshold=threshold,
            threads=threads,
            provider=provider,
            engine=runtime,
            require_manifest=require_manifest,
        )

    def started(address: str) -> None:
        common.say.print(f"serving {', '.join(models)} at {address}", markup=False, soft_wrap=True)

    run(models, host=host, port=port, limits=limits, started=started)
