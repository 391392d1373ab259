"""Banks stored in bfloat16 and int8, beside float32 and a search by brute force."""

from importlib.util import find_spec

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from robustad import runtime
from robustad.detectors import AnomalyDINO, BankEnsemble
from robustad.errors import InputError
from robustad.export import export_onnx, translation_table, verify
from robustad.export.anomaly_dino import CHUNK, ChunkedNeighbours
from robustad.export.banks import Bfloat16Neighbours, Int8Neighbours, integer_products, use_bank

KINDS = {"bfloat16": Bfloat16Neighbours, "int8": Int8Neighbours}
# Of a distance; for bfloat16 the bound of a rounded unit vector.
ALLOWED = {"bfloat16": 2**-9, "int8": 1e-3}


def patches(rows, dim, seed):
    """Vectors of a low inner dimension, as patch features are, and some noise."""
    basis = torch.randn(24, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, 24, generator=generator)
    return latent @ basis + 0.3 * torch.randn(rows, dim, generator=generator)


def brute(features, bank, k):
    unit = F.normalize(features.double(), dim=2)
    return (1 - unit @ bank.double().T).sort(dim=2).values[..., :k].clamp(0, 2)


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize(
    ("rows", "dim", "k"), [(2 * CHUNK + 7, 96, 1), (CHUNK + 1, 33, 3), (50, 20, 50), (1, 5, 1)]
)
def test_near_brute_force(precision, rows, dim, k):
    bank, features = F.normalize(patches(rows, dim, 1)), patches(80, dim, 2)[None]
    found = KINDS[precision](bank, k)(features)
    assert found.shape == (1, 80, k)
    assert found.dtype == torch.float32
    assert (found.double() - brute(features, bank, k)).abs().max() <= ALLOWED[precision]
    assert (found.diff(dim=2) >= 0).all()


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("kind", ["zeros", "constant", "duplicates", "outliers"])
def test_degenerate_banks(precision, kind):
    bank = F.normalize(patches(40, 37, 1))
    if kind == "zeros":
        bank[::2] = 0
    elif kind == "constant":
        bank[:] = 37**-0.5
    elif kind == "duplicates":
        bank[:] = bank[:1]
    else:
        bank[:37] = torch.eye(37)
    features = patches(30, 37, 2)[None]
    features[0, 3] = 0
    found = KINDS[precision](bank, 2)(features)
    assert (found.double() - brute(features, bank, 2)).abs().max() <= ALLOWED[precision]


def test_integer_products_do_not_saturate():
    """Bytes and codes at their ends: what 16-bit sums of pairs could not hold with 8 bits."""
    rows = torch.tensor([[0] * 64, [255] * 64], dtype=torch.uint8)
    codes = torch.full((64, 2), 64, dtype=torch.int8)
    codes[:, 1] = -64
    exact = (rows.long() - 128) @ codes.long()
    assert torch.equal(integer_products(rows, codes).long(), exact)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("MatMulInteger", ["a", "b", "z"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, [2, 64])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [2, 2])],
            [
                onnx.numpy_helper.from_array(codes.numpy(), "b"),
                onnx.numpy_helper.from_array(np.uint8(128), "z"),
            ],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"a": rows.numpy()})
    np.testing.assert_array_equal(found, exact.numpy())


@pytest.fixture(scope="module")
def detector(make_images, means):
    detector = AnomalyDINO(means(), image_size=48, k=3, whiten=True)
    return detector.fit(make_images(3, 48, 64, seed=1))


@pytest.mark.parametrize("precision", KINDS)
def test_files(detector, precision, tmp_path, make_batch, request):
    path = export_onnx(detector, tmp_path / "a.onnx", input="float_nchw", bank=precision)
    plain = export_onnx(detector, tmp_path / "b.onnx", input="float_nchw")
    result = verify(detector, path, threads=1)
    result.raise_if_failed()
    assert result.tolerances["score"] == pytest.approx(1e-3, rel=1)
    assert runtime.load(path, threads=1).metadata["bank"] == precision
    assert runtime.load(plain, threads=1).metadata["bank"] == "float32"
    if find_spec("openvino") is not None:
        request.getfixturevalue("engines_agree")(path, [(48, 64), (64, 48)], (1, 3), atol=1e-3)
    x = make_batch(2, 48, 72, 3)
    one, other = (runtime.load(p, threads=1).run(x) for p in (path, plain))
    assert np.abs(one["score"] - other["score"]).max() <= 1e-3
    assert np.abs(one["patch_scores"] - other["patch_scores"]).max() <= ALLOWED[precision]


@pytest.mark.parametrize(("precision", "share"), [("bfloat16", 0.52), ("int8", 0.77)])
def test_files_are_smaller(precision, share, tmp_path):
    """And hold the vectors in few bits: the exporter must not compute their float32 beforehand."""
    bank, sizes = F.normalize(patches(CHUNK + 900, 64, 1)), []
    for kind in (ChunkedNeighbours, KINDS[precision]):
        program = torch.onnx.export(
            kind(bank, 1), (patches(6, 64, 2)[None],), dynamo=True, verbose=False, opset_version=18,
            custom_translation_table=translation_table(),
        )  # fmt: skip
        program.save(tmp_path / "one.onnx", external_data=False)
        sizes.append((tmp_path / "one.onnx").stat().st_size)
    assert sizes[1] / sizes[0] < share


def test_every_bank_of_an_ensemble(means, make_images, tmp_path):
    view = AnomalyDINO(means(), image_size=48, square=True)
    detector = BankEnsemble([view], banks=3).fit(make_images(2, 64, 80, seed=1))
    path = export_onnx(detector, tmp_path / "a.onnx", opset=18, bank="int8")
    assert [n.op_type for n in onnx.load(path).graph.node].count("MatMulInteger") == 3
    verify(detector, path, threads=1).raise_if_failed()


@pytest.mark.parametrize("precision", ["float32", *KINDS])
def test_no_product_is_as_wide_as_the_bank(precision):
    rows = 3 * CHUNK + 5
    graph = torch.nn.Sequential(ChunkedNeighbours(F.normalize(patches(rows, 8, 1)), 1))
    use_bank(graph, precision)
    program = torch.export.export(graph, (patches(6, 8, 2)[None],))
    widths = [node.meta["val"].shape[-1] for node in program.graph.nodes
              if node.op == "call_function" and hasattr(node.meta.get("val"), "shape")
              and node.meta["val"].ndim == 3]  # fmt: skip
    assert max(widths) == CHUNK


def test_what_is_refused(detector, contrast, tmp_path):
    with pytest.raises(InputError, match="bank: expected one of float32, bfloat16, int8, got 'x'"):
        export_onnx(detector, tmp_path / "a.onnx", bank="x")
    with pytest.raises(InputError, match="bank: expected 'float32' with custom_ops"):
        export_onnx(detector, tmp_path / "a.onnx", bank="int8", custom_ops=True)
    with pytest.raises(InputError, match="bank: expected a detector with a memory bank for 'int8'"):
        export_onnx(contrast.detector, tmp_path / "a.onnx", bank="int8")
    assert not list(tmp_path.iterdir())
