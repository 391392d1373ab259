"""`robustad viewer`: a page that runs exported detectors in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from robustad.cli import common


def viewer(
    out: Annotated[
        Path, typer.Option(help="Folder to write: the page, for any web server, offline too.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(help="Exported .onnx file that the page opens by itself; default: none."),
    ] = None,
    runtime_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the npm package onnxruntime-web; default: node_modules here or above."
        ),
    ] = None,
) -> None:
    """Write a page that shows verdicts and heat maps in the browser; nothing is uploaded."""
    from robustad.viewer import write_viewer

    folder = write_viewer(out, model=model, runtime_dir=runtime_dir)
    common.say.print(
        f"wrote {folder}; to look at it: python3 -m http.server --bind 127.0.0.1 "
        f"--directory {folder} 8000, then http://localhost:8000",
        markup=False,
        soft_wrap=True,
    )
