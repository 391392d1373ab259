"""`robustad export` and `robustad verify`: the ONNX file, and whether it is right."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from robustad.cli import common
from robustad.errors import InputError


class Kind(StrEnum):
    """Where Triton runs its instances."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


class Bank(StrEnum):
    """Precision of memory banks."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class Input(StrEnum):
    """Form of the file's input."""

    FLOATS = "float_nchw"
    BYTES = "uint8_nhwc"


def export(
    detector: Annotated[
        Path,
        typer.Argument(
            help="Detector file written by `robustad fit`; with --triton also an exported .onnx."
        ),
    ],
    out: Annotated[Path, typer.Option(help="ONNX file to write.")] = Path("detector.onnx"),
    check: Annotated[
        bool, typer.Option(help="Compare the file with the detector afterwards.")
    ] = True,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images to compare on; default: generated ones.")
    ] = None,
    input_form: Annotated[
        Input,
        typer.Option(
            "--input",
            help="What the file takes: prepared images, or uint8 images of any size, which it "
            "resizes itself.",
        ),
    ] = Input.FLOATS,
    custom_ops: Annotated[
        bool,
        typer.Option(
            "--custom-ops",
            help="Search the bank by robustad's own operator: faster; the file needs its library.",
        ),
    ] = False,
    bank: Annotated[
        Bank, typer.Option(help="Precision in which the file stores memory banks.")
    ] = Bank.FLOAT32,
    triton: Annotated[
        Path | None,
        typer.Option(help="Put the file into this NVIDIA Triton model repository too."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model in the repository; default: the file's.")
    ] = None,
    version: Annotated[int, typer.Option(min=1, help="In the repository.")] = 1,
    max_batch: Annotated[int, typer.Option(min=1, help="Images Triton scores at once.")] = 8,
    instances: Annotated[int, typer.Option(min=1, help="Copies of the model in Triton.")] = 1,
    kind: Annotated[Kind, typer.Option(help="Where Triton runs them.")] = Kind.AUTO,
    custom_ops_library: Annotated[
        Path | None,
        typer.Option(help="Where Triton's machine has the library of robustad's operators."),
    ] = None,
) -> None:
    """Export a detector to one ONNX file: calibration inside, dynamic batch, self-describing."""
    from robustad.detectors import load
    from robustad.export import export_onnx, write_triton
    from robustad.export import verify as compare

    def repository(path: Path) -> None:
        if triton is None:
            return
        folder = write_triton(
            path,
            triton,
            name=name,
            version=version,
            max_batch=max_batch,
            instances=instances,
            kind=kind.value,
            custom_ops_library=custom_ops_library,
        )
        common.say.print(f"wrote {folder}, for tritonserver --model-repository={triton}")

    if detector.suffix == ".onnx":
        if triton is None:
            raise InputError(f"{detector}: is exported already; expected --triton, got none")
        repository(detector)
        return
    loaded = load(detector)
    export_onnx(loaded, out, input=input_form.value, custom_ops=custom_ops, bank=bank.value)
    common.say.print(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MB)")
    if check:
        found = compare(loaded, out, images=images)
        found.raise_if_failed()
        common.say.print(f"verified: {found}")
    repository(out)


def verify(
    detector: Annotated[Path, typer.Argument(help="Detector file the export was made from.")],
    onnx: Annotated[Path, typer.Argument(help="Exported ONNX file.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of images to compare on; default: generated ones.")
    ] = None,
    runtime: common.Runtime = common.Engine.AUTO,
    json: common.Json = False,
) -> None:
    """Compare a detector and its ONNX file on real inputs; exit with code 3 on disagreement."""
    from robustad.detectors import load
    from robustad.export import verify as compare

    found = compare(load(detector), onnx, images=images, engine=runtime.value)
    if json:
        common.print_json(found.to_dict())
    found.raise_if_failed()
    if not json:
        common.say.print(f"verified: {found}")
