"""`cosine_nn` as an operator: gradients, soft minimum, packing, tracing, export."""

import importlib

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from robustad.errors import InputError
from robustad.export.translations import translation_table
from robustad.ops import PackedBank, cosine_nn, pack_bank

op = importlib.import_module("robustad.ops._cosine_nn")
CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
)
DEVICES = ["cpu", CUDA]


def vectors(rows, dim, seed=0, scale=1.0):
    return scale * torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


# Gradients


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_gradients_are_those_of_the_dense_formula(k, packed, device):
    queries, bank = vectors(8, 12).to(device), vectors(40, 12, seed=1).to(device)
    weight = vectors(8, k, seed=2).to(device)
    ours = queries.clone().requires_grad_(), bank.clone().requires_grad_()
    theirs = queries.clone().requires_grad_(), bank.clone().requires_grad_()
    chosen = pack_bank(ours[1]) if packed else ours[1]
    (cosine_nn(ours[0], chosen, k)[0] * weight).sum().backward()
    dense = 1 - F.cosine_similarity(theirs[0][:, None], theirs[1][None], dim=2)
    (dense.topk(k, largest=False).values * weight).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad.abs().max() > 0.1
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_second_gradients_are_those_of_the_dense_formula():
    bank, weight = vectors(40, 12, seed=1), vectors(8, 12, seed=2)

    def second(distances):
        queries = vectors(8, 12).requires_grad_()
        (first,) = torch.autograd.grad(distances(queries).sum(), queries, create_graph=True)
        (found,) = torch.autograd.grad((first * weight).sum(), queries)
        return found

    found = second(lambda queries: cosine_nn(queries, bank, 2)[0])
    dense = second(
        lambda queries: (
            (1 - F.cosine_similarity(queries[:, None], bank[None], dim=2))
            .topk(2, largest=False)
            .values
        )
    )
    assert dense.abs().max() > 0.01
    torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-5)


def test_gradients_stay_finite_at_the_ends():
    bank = torch.eye(3)
    queries = torch.cat([bank, -bank, torch.ones(1, 3), torch.zeros(1, 3)]).requires_grad_()
    cosine_nn(queries, bank[:1])[0].sum().backward()
    assert queries.grad.isfinite().all()
    # at its nearest row and at the opposite one the distance is stationary
    assert queries.grad[[0, 3]].abs().max() < 1e-6
    assert (queries.grad[7] == 0).all()


@pytest.mark.parametrize("scale", [1e-36, 1e-25, 1e-22, 1e18, 1e25, 1e36])
def test_gradients_of_queries_of_any_length(scale):
    queries, bank = (vectors(8, 12) * scale).requires_grad_(), vectors(40, 12, seed=1)
    cosine_nn(queries, bank)[0].sum().backward()
    wide = queries.detach().double().requires_grad_()
    unit = wide / wide.norm(dim=1, keepdim=True)
    (1 - unit @ F.normalize(bank.double()).T).min(dim=1).values.sum().backward()
    assert (queries.grad - wide.grad).abs().max() <= 1e-5 * wide.grad.abs().max()


def test_no_gradient_without_need():
    queries, bank = vectors(4, 6), vectors(9, 6, seed=1)
    assert not cosine_nn(queries, bank)[0].requires_grad
    with torch.no_grad():
        assert not cosine_nn(queries.requires_grad_(), bank)[0].requires_grad
    distances, indices = cosine_nn(queries.requires_grad_(), bank)
    assert distances.requires_grad
    assert not indices.requires_grad


# Soft minimum


def test_the_soft_minimum():
    queries, bank = vectors(30, 12), vectors(200, 12, seed=1)
    distances, indices = cosine_nn(queries, bank, 8)
    for temperature in (1e-3, 0.05, 10.0):
        soft, rows = cosine_nn(queries, bank, 8, temperature=temperature)
        assert soft.shape == (30, 1)
        assert torch.equal(rows, indices)
        exact = -temperature * (-distances.double() / temperature).exp().mean(dim=1).log()
        torch.testing.assert_close(soft[:, 0].double(), exact, rtol=1e-5, atol=1e-6)
        assert (soft[:, 0] >= distances[:, 0] - 1e-6).all()
        assert (soft[:, 0] <= distances.mean(dim=1) + 1e-6).all()
    alone = cosine_nn(queries, bank, 1, temperature=0.1)[0]
    torch.testing.assert_close(alone, distances[:, :1], rtol=1e-6, atol=1e-6)


def test_the_soft_minimum_weighs_its_neighbours():
    queries, bank = vectors(5, 12), vectors(50, 12, seed=1)
    leaf = queries.clone().requires_grad_()
    cosine_nn(leaf, bank, 4, temperature=0.1)[0].sum().backward()
    other = queries.clone().requires_grad_()
    distances, _ = cosine_nn(other, bank, 4)
    (distances * (-distances.detach() / 0.1).softmax(dim=1)).sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-5, atol=1e-6)


# Packed banks


@pytest.mark.parametrize("device", DEVICES)
def test_a_packed_bank_gives_the_same(device):
    queries, bank = vectors(10, 12).to(device), vectors(30, 12, seed=1).to(device)
    packed = pack_bank(bank)
    torch.testing.assert_close(packed.unit.norm(dim=1), torch.ones(30, device=device))
    expected = cosine_nn(queries, bank, 3)
    for one, other in zip(cosine_nn(queries, packed, 3), expected, strict=True):
        assert torch.equal(one, other)
    again = PackedBank.of_unit(packed.unit.clone())
    assert torch.equal(cosine_nn(queries, again, 3)[1], expected[1])
    assert packed.to(device) is packed
    wide = pack_bank(bank.double())
    assert wide.unit.dtype == torch.float32
    assert torch.equal(cosine_nn(queries, wide, 3)[1], expected[1])
    assert (pack_bank(torch.zeros(2, 3)).unit == 0).all()


@pytest.mark.parametrize("made", [*op._C.cosine_nn_paths()])
@pytest.mark.parametrize("used", [*op._C.cosine_nn_paths()])
def test_a_bank_packed_for_another_path(made, used, monkeypatch):
    queries, bank = vectors(10, 12), vectors(30, 12, seed=1)
    expected = cosine_nn(queries, bank, 3)
    monkeypatch.setenv(op.PATH, made)
    packed = pack_bank(bank)
    monkeypatch.setenv(op.PATH, used)
    distances, indices = cosine_nn(queries, packed, 3)
    torch.testing.assert_close(distances, expected[0], rtol=0, atol=2e-6)
    assert torch.equal(indices, expected[1])


@pytest.mark.parametrize("path", [*op._C.cosine_nn_paths()])
@pytest.mark.parametrize("dim", [1, 37, 64, 100])
def test_the_size_of_a_packed_bank_is_known_before_it_is_packed(path, dim, monkeypatch):
    monkeypatch.setenv(op.PATH, path)
    for rows in (1, 32, 33, 64, 200):
        coarse, side = op.pack(F.normalize(vectors(rows, dim)))
        with FakeTensorMode():
            told = op.pack(torch.empty(rows, dim))
        assert [part.shape for part in told] == [coarse.shape, side.shape]


def test_a_bank_too_dense_for_bfloat16_is_packed_for_integers():
    spread = F.normalize(vectors(500, 24))
    dense = F.normalize(1 + 0.1 * vectors(500, 24))
    assert op.choose_path(["amx", "avx2", "portable"], spread) == "amx"
    assert op.choose_path(["amx", "avx2", "portable"], dense) == "avx2"
    assert op.choose_path(["avx2", "portable"], dense) == "avx2"


def test_a_buffer_that_is_no_packed_bank_is_not_read():
    queries, unit = vectors(10, 12), F.normalize(vectors(30, 12, seed=1))
    expected = cosine_nn(queries, unit, 3)
    for buffer in (
        torch.zeros(0, dtype=torch.uint8),
        torch.zeros(128 + 32 * 64, dtype=torch.uint8),
    ):
        found = op.search(queries, unit, buffer, torch.empty(0), 3)
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_default_dtype_does_not_matter(dtype):
    queries, bank = vectors(10, 12), vectors(30, 12, seed=1)
    expected = cosine_nn(queries, bank, 3)
    torch.set_default_dtype(dtype)
    try:
        distances, indices = cosine_nn(queries, pack_bank(bank), 3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert distances.dtype == torch.float32
    assert torch.equal(distances, expected[0])
    assert torch.equal(indices, expected[1])


def test_a_unit_bank_of_another_kind():
    unit = F.normalize(vectors(30, 12))
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(InputError, match=rf"^unit: expected torch.float32, got {dtype}$"):
            PackedBank.of_unit(unit.to(dtype))
    with pytest.raises(InputError, match=r"^unit: expected a floating-point tensor \(rows, D\)"):
        PackedBank.of_unit(unit[0])
    packed = pack_bank(unit)
    narrow = PackedBank(unit.half(), packed.coarse, packed.side)
    with pytest.raises(InputError, match=r"^bank: expected torch.float32 .*, got torch.float16$"):
        cosine_nn(unit, narrow)


# Tracing


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(grad, device):
    queries = vectors(7, 37).to(device).requires_grad_(grad)
    unit = F.normalize(vectors(45, 37, seed=1)).to(device).requires_grad_(grad)
    coarse, side = op.pack(unit.detach())
    torch.library.opcheck(op.pack, (unit.detach(),))
    torch.library.opcheck(op.search, (queries, unit, coarse, side, 3))


@pytest.mark.parametrize("device", DEVICES)
def test_compile_without_graph_breaks(device):
    def step(queries, bank):
        distances, indices = cosine_nn(queries * 2, bank, 2)
        return distances.mean(dim=1), indices

    compiled = torch.compile(step, fullgraph=True, dynamic=True)
    for count, rows in ((9, 40), (14, 70)):
        queries, bank = vectors(count, 24).to(device), vectors(rows, 24, seed=1).to(device)
        for one, other in zip(compiled(queries, bank), step(queries, bank), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    leaf, other = queries.clone().requires_grad_(), queries.clone().requires_grad_()
    compiled(leaf, bank)[0].sum().backward()
    step(other, bank)[0].sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-5, atol=1e-6)


class Neighbours(torch.nn.Module):
    def __init__(self, bank):
        super().__init__()
        packed = pack_bank(bank)
        for name in ("unit", "coarse", "side"):
            self.register_buffer(name, getattr(packed, name))

    def forward(self, queries):
        return cosine_nn(queries, PackedBank(self.unit, self.coarse, self.side), 3)


def test_export_and_onnx(tmp_path):
    queries, bank = vectors(9, 24), vectors(60, 24, seed=1)
    module = Neighbours(bank).eval()
    sizes = {"queries": {0: torch.export.Dim("count", min=2)}}
    program = torch.export.export(module, (queries,), dynamic_shapes=sizes)
    assert "robustad.cosine_nn" in str(program.graph)
    more = vectors(21, 24, seed=3)
    for one, other in zip(program.module()(more), module(more), strict=True):
        assert torch.equal(one, other)
    path = tmp_path / "neighbours.onnx"
    torch.onnx.export(
        module,
        (queries,),
        path,
        dynamo=True,
        opset_version=18,
        dynamic_shapes=sizes,
        custom_translation_table=translation_table(),
        input_names=["queries"],
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    distances, indices = session.run(None, {"queries": more.numpy()})
    expected = module(more)
    np.testing.assert_allclose(distances, expected[0], rtol=0, atol=2e-6)
    np.testing.assert_array_equal(indices, expected[1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_blur_the_search(dtype, device):
    queries, bank = vectors(50, 64).to(device), vectors(900, 64, seed=1).to(device)
    expected = cosine_nn(queries, bank, 4)
    with torch.autocast(device, dtype=dtype):
        distances, indices = cosine_nn(queries, bank, 4)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances, expected[0], rtol=0, atol=1e-6)
    assert torch.equal(indices, expected[1])
