"""`robustad export` and `robustad verify`: the ONNX file, and whether it is right."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from robustad.cli import common
from robustad.errors import InputError

if TYPE_CHECKING:
    from robustad.export import TargetReport
    from robustad.export.banks import BankPrecision
    from robustad.export.metadata import InputForm


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


class Target(StrEnum):
    """What the file is to run on."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"


class Input(StrEnum):
    """Form of the file's input."""

    BYTES = "uint8_nhwc"
    FLOATS = "float_nchw"


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
            help="What the file takes: uint8 images of any size, which it resizes itself, or "
            "prepared floats.",
        ),
    ] = Input.BYTES,
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
    target: Annotated[
        Target | None,
        typer.Option(
            help="Pick the fastest precision for onnxruntime on a CPU or GPU, TensorRT or OpenVINO "
            "that scores --images as the detector does. Default: float32, for any."
        ),
    ] = None,
    max_score_error: Annotated[
        float,
        typer.Option(
            help="With --target: refuse what moves a score by more, absolute, or relative to the "
            "largest score where that exceeds 1."
        ),
    ] = 1e-3,
    max_map_error: Annotated[
        float | None,
        typer.Option(help="With --target: the same for patch scores and maps; default: any."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="With --target: images at once when timed.")
    ] = 1,
    threads: common.Threads = None,
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
    quiet: common.Quiet = False,
) -> None:
    """Export a detector to one ONNX file: calibration inside, dynamic batch, self-describing."""
    from robustad.detectors import load
    from robustad.export import export_fastest, export_onnx, write_parity, write_triton
    from robustad.export import verify as compare
    from robustad.export.candidates import TARGETS

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
    if target is not None and images is None:
        raise InputError(
            "--target: expected --images, a folder of what the detector will see, got none"
        )
    loaded = load(detector)
    form: InputForm = input_form.value
    kind_of_bank: BankPrecision = bank.value
    if target is None or images is None:
        export_onnx(loaded, out, input=form, custom_ops=custom_ops, bank=kind_of_bank)
    else:
        report = export_fastest(
            loaded,
            out,
            target=target.value,
            images=images,
            max_score_error=max_score_error,
            max_map_error=max_map_error,
            input=form,
            bank=kind_of_bank,
            custom_ops=custom_ops,
            batch_size=batch_size,
            threads=threads,
            progress=(lambda said: None) if quiet else common.say.print,
        )
        common.say.print(_table(report))
        common.say.print(
            f"chose {report.chosen.name}: "
            f"{report.eager_milliseconds / report.chosen.milliseconds:.2f} x the detector in torch"
        )
    common.say.print(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MB)")
    if check:
        providers = None if target is None else list(TARGETS[target.value].providers)
        found = compare(loaded, out, images=images, threads=threads, providers=providers)
        found.raise_if_failed()
        write_parity(out, verification=found.to_dict())
        common.say.print(f"verified: {found}")
    repository(out)


def verify(
    detector: Annotated[Path, typer.Argument(help="Detector file the export was made from.")],
    onnx: Annotated[Path, typer.Argument(help="Exported ONNX file.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of images to compare on; default: generated ones.")
    ] = None,
    runtime: common.Runtime = common.Inference.AUTO,
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


def _table(report: TargetReport) -> Table:
    """All candidates: how far from the detector, how fast, how large."""
    title = (
        f"{report.target}: {report.images} images, {report.batch_size} at once; the detector in "
        f"torch takes {report.eager_milliseconds:.1f} ms an image"
    )
    table = Table(title=title, title_justify="left")
    for name in ("candidate", "score error", "map error", "flips", "ms/image", "MB", "outcome"):
        table.add_column(name, justify="left" if name in ("candidate", "outcome") else "right")
    for one in report.candidates:
        outcome = one.refused or ("chosen" if one is report.chosen else "slower")
        table.add_row(
            one.name,
            f"{one.parity.score_error:.1e}",
            f"{max(one.parity.map_error, one.parity.patch_error):.1e}",
            str(one.parity.verdict_flips),
            "-" if one.refused else f"{one.milliseconds:.1f}",
            f"{one.size / 2**20:.1f}",
            outcome,
        )
    return table
