"""Writing a detector to an ONNX file that describes itself."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.geometry import Geometry
from robustad.runtime._metadata import BYTES, FORMS, KEY
from robustad.runtime.integrity import manifest_file, manifest_text

if TYPE_CHECKING:
    from onnxscript import ir

    from robustad.export.banks import BankPrecision
    from robustad.export.metadata import InputForm

OPSETS = (18, 20)
# A protobuf file ends at 2 GiB; the graph and the metadata need some of it.
EXTERNAL_BYTES = 2**31 - 2**26


def export_onnx(
    detector: Detector,
    path: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    dynamic_size: bool | None = None,
    input: InputForm = "uint8_nhwc",
    opset: int = 20,
    evaluation: Mapping[str, Any] | None = None,
    custom_ops: bool = False,
    bank: BankPrecision = "float32",
) -> Path:
    """Write a detector to one ONNX file, from image to probability and map.

    A SHA-256 manifest, `model.onnx.sha256`, is written beside it; the runtime checks it at load.

    Parameters
    ----------
    detector : Detector
        Fitted; calibrated if probabilities are wanted. It is not changed.
    path : str or Path
        File name, ending in `.onnx`. An earlier file is replaced in one step; if anything fails
        it stays as it was. A model of over 2 GB keeps its tensors in `.onnx.data` beside it.
    image_size : (int, int), optional
        Height and width in pixels of prepared images: the only size unless `dynamic_size`; by
        default the square of the detector's smaller edge. For `uint8_nhwc` one that images are
        prepared to.
    dynamic_size : bool, optional
        True leaves height and width free, False fixes them. By default they are free where the
        backbone can be traced so and images keep their aspect ratio, else fixed. The batch size
        is always free.
    input : {"uint8_nhwc", "float_nchw"}, default "uint8_nhwc"
        `uint8_nhwc` takes images of any size, which the graph resizes and crops itself;
        `float_nchw` prepared ones.
    opset : {18, 20}, default 20
        Version of ONNX's operators.
    evaluation : mapping, optional
        What has been measured about the detector, stored in the file; its key `attacks` lists the
        attacks it was evaluated under.
    custom_ops : bool, default False
        Search memory banks by robustad's own operator, which is faster, in place of standard
        ones. Such a file needs `robustad.runtime.custom_ops_library()` wherever
        it runs, and runs on the CPU there.
    bank : {"float32", "bfloat16", "int8"}, default "float32"
        Precision of memory banks in the file. `bfloat16` halves it; `int8` takes three quarters,
        finds candidates by integer products and compares them in float32; see docs/deploy.md.
        `verify` allows scores of such a file to differ by 1e-3. Not together with `custom_ops`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If an option is out of range, the file cannot be written there, the detector cannot be
        traced with a free size though `dynamic_size` is True, has nothing for `custom_ops`, is
        not float32, or its calibrator is of a kind that cannot be exported or does not fit float32.
    NotFittedError
        If the detector or its calibrator is not fitted.

    Notes
    -----
    Input `image` (B, H, W, 3), uint8 RGB of any size, and maps of that size; or (B, 3, H, W),
    float32 RGB in [0, 1], resized and cropped. Outputs, float32:
    `score` (B,), `probability` (B,), `entropy` (B,) in nats, `patch_scores` (B, N),
    `anomaly_map` (B, H, W), `p_value` (B,), and with a pixel calibrator `probability_map`
    (B, H, W). Probability and entropy are NaN without a calibration, p-values without held-out
    scores. `verdict` (B,), int64, is what the detector's policy makes of them: 0 accept, 1 reject,
    2 defer, 3 uncalibrated. The numbers of the calibration are initialisers that a caller may
    override, see `robustad.export.calibration`: the scalars `calibration_slope` and
    `calibration_intercept` of Platt's curve (a temperature T is the slope 1 / T), which are
    NaN where another curve applies; `calibration_a` and so on of beta calibration; the arrays
    `calibration_knots`, `calibration_for` and `calibration_against` of isotonic calibration. So are
    the scores `conformal_scores` (n,) and `conformal_anomalous` (m,), by any number of scores, and
    the scalars of the policy, float64, `policy_threshold` and so on, NaN for a part that is not
    set. The bank is compared in chunks, and the foreground mask is computed in the graph, not
    stored.

    Call `verify` on the file before using it.
    """
    from robustad.export.custom_ops import custom_ops_in
    from robustad.export.metadata import contract, describe
    from robustad.export.prepare import take_bytes
    from robustad.export.trace import trace

    path = onnx_name(path)
    if opset not in OPSETS:
        raise InputError(f"opset: expected one of {OPSETS}, got {opset}")
    if input not in FORMS.values():
        raise InputError(f"input: expected one of {', '.join(FORMS.values())}, got {input!r}")
    if custom_ops and bank != "float32":
        raise InputError(
            f"bank: expected 'float32' with custom_ops, whose operator searches float32 banks, "
            f"got {bank!r}"
        )
    size = _size(image_size, detector.geometry)
    if dynamic_size is None and detector.geometry.square:
        dynamic_size = False
    with replaced(path) as aside:
        metadata = describe(detector, size, evaluation=evaluation, input=input)
        model, dynamic = trace(
            detector, size, dynamic=dynamic_size, opset=opset, custom_ops=custom_ops, bank=bank
        )
        metadata.bank = bank
        if custom_ops:
            metadata.custom_ops = custom_ops_in(model)
        if dynamic:
            metadata.input = contract(input, (None, None))
        if input == BYTES:
            take_bytes(model, detector.geometry)
        model.metadata_props[KEY] = metadata.model_dump_json()
        model.producer_name, model.producer_version = "robustad", metadata.versions["robustad"]
        _save(model, aside)
    return path


def onnx_name(path: str | Path) -> Path:
    """The path, or an InputError if it does not end in `.onnx`."""
    path = Path(path)
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected a file name ending in .onnx")
    return path


def data_file(path: Path) -> Path:
    """Where the tensors of a model of over 2 GB lie."""
    return path.with_name(path.name + ".data")


def parity_file(path: str | Path) -> Path:
    """Where the parity report of a file lies: `screws.onnx.parity.json` beside `screws.onnx`."""
    path = Path(path)
    return path.with_name(path.name + ".parity.json")


def _size(image_size: tuple[int, int] | None, geometry: Geometry) -> tuple[int, int]:
    edge = geometry.size - geometry.size % geometry.multiple
    if image_size is None:
        return edge, edge
    height, width = image_size
    if min(height, width) < 1 or height % geometry.multiple or width % geometry.multiple:
        raise InputError(
            f"image_size: expected height and width in multiples of {geometry.multiple} pixels, "
            f"got {image_size}"
        )
    return height, width


def _save(model: ir.Model, path: Path) -> None:
    from onnxscript import ir

    nbytes = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    external = data_file(path).name if nbytes > EXTERNAL_BYTES else None
    ir.save(model, path, external_data=external)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a folder beside; move what is there when all went well.

    The model, its `.data` and its parity report are moved, with a manifest of the first two; an
    earlier file's report goes if there is no new one.
    """
    if path.is_dir():
        raise InputError(f"{path}: expected a file name to write to, got an existing folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}.", dir=path.parent))
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{path}: its parent {path.parent} is not a folder") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written there: {error.strerror}") from error
    try:
        aside = folder / path.name
        yield aside
        data, old_data = data_file(aside), data_file(path)
        has_data, replaces = data.exists(), path.exists()
        manifest = manifest_file(aside)
        manifest.write_text(manifest_text([aside, data] if has_data else [aside]), "utf-8")
        # The manifest first: whoever loads a half-replaced pair is told. Then the data: once the
        # model is there, it is whole.
        manifest.replace(manifest_file(path))
        if has_data:
            data.replace(old_data)
        aside.replace(path)
        if parity_file(aside).exists():
            parity_file(aside).replace(parity_file(path))
        else:
            parity_file(path).unlink(missing_ok=True)
        if replaces and not has_data:
            old_data.unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
