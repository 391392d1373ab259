"""`robustad export` and `robustad verify`: the ONNX file, and whether it is right."""

from pathlib import Path
from typing import Annotated

import typer

from robustad.cli import common


def export(
    detector: Annotated[Path, typer.Argument(help="Detector file written by `robustad fit`.")],
    out: Annotated[Path, typer.Option(help="ONNX file to write.")] = Path("detector.onnx"),
    check: Annotated[
        bool, typer.Option(help="Compare the file with the detector afterwards.")
    ] = True,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images to compare on; default: generated ones.")
    ] = None,
) -> None:
    """Export a detector to one ONNX file: calibration inside, dynamic batch, self-describing."""
    from robustad.detectors import load
    from robustad.export import export_onnx
    from robustad.export import verify as compare

    loaded = load(detector)
    export_onnx(loaded, out)
    common.say.print(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MB)")
    if check:
        found = compare(loaded, out, images=images)
        found.raise_if_failed()
        common.say.print(f"verified: {found}")


def verify(
    detector: Annotated[Path, typer.Argument(help="Detector file the export was made from.")],
    onnx: Annotated[Path, typer.Argument(help="Exported ONNX file.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of images to compare on; default: generated ones.")
    ] = None,
    json: common.Json = False,
) -> None:
    """Compare a detector and its ONNX file on real inputs; exit with code 3 on disagreement."""
    from robustad.detectors import load
    from robustad.export import verify as compare

    found = compare(load(detector), onnx, images=images)
    if json:
        common.print_json(found.to_dict())
    found.raise_if_failed()
    if not json:
        common.say.print(f"verified: {found}")
