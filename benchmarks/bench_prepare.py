"""Whole images of bytes to what a detector sees: inside an exported graph, and by others.

One thread. All results have to be those of `robustad.geometry`; `largest_error` is how far one
pixel in [0, 1] is off.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnxscript import ir
from PIL import Image

from robustad import runtime
from robustad.detectors import AnomalyDINO
from robustad.export import export_onnx
from robustad.export.prepare import take_bytes
from robustad.geometry import Geometry

GEOMETRY = Geometry(size=448, multiple=14)
SIZES = [(448, 448), (512, 512), (1024, 1024), (2048, 2448), (3000, 4000)]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@cache
def photograph(height: int, width: int) -> Bytes:
    """A smooth image with noise."""
    rng = np.random.default_rng(height)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    noisy: Floats = smooth + 4 * rng.standard_normal(smooth.shape, np.float32)
    return noisy.clip(0, 255).astype(np.uint8)


def session_of(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    given = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def graph() -> ort.InferenceSession:
    """A model that gives the prepared image, and one colour plane of it at the original size."""
    shape = ir.Shape(["batch", 3, "height", "width"])
    image = ir.Value(name="image", type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
    tape = ir.tape.Tape()
    seen = tape.op("Identity", [image])
    place = tape.op("Constant", [], {"value": ir.tensor(np.array(1))})
    plane = tape.op("Gather", [image, place], {"axis": 1})
    for value, name in ((seen, "seen"), (plane, "anomaly_map")):
        value.name, value.dtype = name, ir.DataType.FLOAT
    seen.shape, plane.shape = ir.Shape(["b", 3, "h", "w"]), ir.Shape(["b", "h", "w"])
    inside = ir.Graph([image], [seen, plane], nodes=tape.nodes, opset_imports={"": 20}, name="x")
    model = ir.Model(inside, ir_version=10)
    take_bytes(model, GEOMETRY)
    return session_of(model)


def resize_operator(height: int, width: int) -> ort.InferenceSession:
    """ONNX's own operator with the same filter, to one size."""
    shape = ir.Shape([1, "height", "width", 3])
    image = ir.Value(name="image", type=ir.TensorType(ir.DataType.UINT8), shape=shape)
    tape = ir.tape.Tape()
    planes = tape.op("Transpose", [image], {"perm": [0, 3, 1, 2]})
    floats = tape.op("Cast", [planes], {"to": int(ir.DataType.FLOAT)})
    sizes = tape.op("Constant", [], {"value": ir.tensor(np.array([1, 3, height, width]))})
    filters = {"mode": "cubic", "cubic_coeff_a": -0.5, "antialias": 1, "exclude_outside": 1}
    resized = tape.op("Resize", [floats, None, None, sizes], filters)
    scale = tape.op("Constant", [], {"value": ir.tensor(np.float32(255))})
    out = tape.op("Div", [resized, scale])
    out.name, out.dtype, out.shape = "seen", ir.DataType.FLOAT, ir.Shape([1, 3, "h", "w"])
    inside = ir.Graph([image], [out], nodes=tape.nodes, opset_imports={"": 20}, name="x")
    return session_of(ir.Model(inside, ir_version=10))


def cropped(planes: Floats) -> Floats:
    """What the geometry keeps of a resized image (3, H, W), in [0, 1]."""
    top, left, height, width = GEOMETRY.crop(*planes.shape[1:])
    return planes[:, top : top + height, left : left + width].clip(0, 1)


def preparer(impl: str, image: Bytes) -> Callable[[Bytes], Floats]:
    """From (H, W, 3) to (3, h, w)."""
    height, width = GEOMETRY.resized(*image.shape[:2])
    if impl == "robustad":
        session = graph()
        return lambda x: session.run(["seen"], {"image": x[None]})[0][0]
    if impl == "onnxruntime Resize":
        resize = resize_operator(height, width)
        return lambda x: cropped(resize.run(None, {"image": x[None]})[0][0])
    if impl == "torch interpolate":

        def interpolate(x: Bytes) -> Floats:
            planes = torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255
            out = F.interpolate(planes, (height, width), mode="bicubic", antialias=True)
            return cropped(out[0].numpy())

        return interpolate
    if impl == "Pillow, float planes":

        def planes(x: Bytes) -> Floats:
            floats = [Image.fromarray(x[..., c].astype(np.float32) / 255) for c in range(3)]
            size, bicubic = (width, height), Image.Resampling.BICUBIC
            return cropped(np.stack([np.asarray(one.resize(size, bicubic)) for one in floats]))

        return planes
    return lambda x: GEOMETRY.apply(x / np.float32(255)).transpose(2, 0, 1)


# All have the same filter, a = -0.5; they differ in how they round.
ALLOWED = {
    "robustad": 1e-6,
    "numpy": 0.0,
    "torch interpolate": 1e-5,
    "Pillow, float planes": 1e-5,
    "onnxruntime Resize": 1e-4,
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("impl", ALLOWED)
def test_prepare(benchmark: Any, impl: str, size: tuple[int, int]) -> None:
    benchmark.group = f"preparing an image, {size[0]} x {size[1]} to 448, one thread"
    image = photograph(*size)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = benchmark.pedantic(preparer(impl, image), (image,), rounds=7, warmup_rounds=1)
    torch.set_num_threads(before)
    error = float(np.abs(found - preparer("numpy", image)(image)).max())
    assert error <= ALLOWED[impl]
    benchmark.extra_info.update(items=1, device="cpu", dtype="float32", largest_error=error)


@pytest.mark.parametrize("size", [(1024, 1024), (3000, 4000)], ids=str)
@pytest.mark.parametrize("impl", ["robustad", "numpy"])
def test_restore(benchmark: Any, impl: str, size: tuple[int, int]) -> None:
    """A graph that prepares an image and restores a map, and the same by numpy."""
    benchmark.group = f"preparing, and a map back, {size[0]} x {size[1]} and 448, one thread"
    image, session = photograph(*size), graph()

    def by_numpy(x: Bytes) -> Floats:
        prepared = GEOMETRY.apply(x / np.float32(255))
        return GEOMETRY.restore(np.ascontiguousarray(prepared[..., 1]), *size)

    def by_graph(x: Bytes) -> Floats:
        return session.run(["seen", "anomaly_map"], {"image": x[None]})[1][0]

    work = by_graph if impl == "robustad" else by_numpy
    found = benchmark.pedantic(work, (image,), rounds=7, warmup_rounds=1)
    error = float(np.abs(found - by_numpy(image)).max())
    assert error <= 2e-6
    benchmark.extra_info.update(items=1, device="cpu", dtype="float32", largest_error=error)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("forms")
    detector = AnomalyDINO("resnet18", "random", image_size=224)
    detector.fit([photograph(256, 256)]).eval()
    return {
        "uint8_nhwc": export_onnx(detector, folder / "bytes.onnx"),
        "float_nchw": export_onnx(detector, folder / "floats.onnx", input="float_nchw"),
    }


@pytest.mark.parametrize("size", [(256, 256), (1024, 1024), (3000, 4000)], ids=str)
@pytest.mark.parametrize("impl", ["uint8_nhwc", "float_nchw"])
def test_predict(
    benchmark: Any, impl: str, size: tuple[int, int], files: dict[str, Path], tmp_path: Path
) -> None:
    """The runtime on an image file, decoding included, by either form of exported file."""
    benchmark.group = f"runtime.predict, ResNet-18 at 224, a PNG of {size[0]} x {size[1]}"
    Image.fromarray(photograph(*size)).save(tmp_path / "x.png")
    models = {form: runtime.load(path, threads=1) for form, path in files.items()}
    found = benchmark.pedantic(
        models[impl].predict, (tmp_path / "x.png",), rounds=7, warmup_rounds=1
    )
    error = float(abs(found.score - models["float_nchw"].predict(tmp_path / "x.png").score)[0])
    assert error <= 1e-5
    benchmark.extra_info.update(items=1, device="cpu", dtype="float32", largest_error=error)
