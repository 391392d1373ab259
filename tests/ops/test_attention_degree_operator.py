"""The attention operators as torch, its compiler and its exporters see them."""

import importlib

import pytest
import torch

from robustad.ops import attention_degree, attention_statistics, attention_with_degree

reference = importlib.import_module("robustad.ops.reference.attention_degree")
ops = torch.ops.robustad


NUMBERS = (0.05, 0.01, 1, 0.25)


@pytest.mark.parametrize("name", ["degree", "statistics", "with_degree"])
@pytest.mark.parametrize("tau", [None, 0.01])
def test_operators(attention, name, tau, device):
    count = 3 if name == "with_degree" else 2
    inputs = [x.requires_grad_() for x in attention.heads((2, 2, 9, 16), count, device=device)]
    operator = getattr(ops, f"attention_{name}")
    torch.library.opcheck(operator.default, (*inputs, 0.05, tau, 1, 0.25))


def test_gradient_operators(attention, device):
    q, k, v = attention.heads((2, 2, 9, 16), device=device)
    a, b, c, r, lse = (torch.rand(2, 2, 8, device=device) for _ in range(5))
    torch.library.opcheck(ops.attention_degree_backward.default, (q, k, lse, a, b, c, r, *NUMBERS))
    whole = torch.rand(2, 2, 9, device=device) + 2
    torch.library.opcheck(
        ops.attention_with_degree_backward.default,
        (v, whole, q, k, v, whole, lse, a, r, *NUMBERS),
    )


def loss(q, k, v):
    out, degree = attention_with_degree(q, k, v, 0.1, 0.01, prefix_tokens=1)
    found = attention_statistics(q, k, 0.1, 0.01)
    alone = attention_degree(q, k, 0.1, 0.02)
    return out.sum() + degree.sum() + sum(x.sum() for x in found) + alone.sum()


def test_compiled_with_dynamic_shapes(attention, device):
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (12, 17):
        plain = [x.requires_grad_() for x in attention.heads((2, 2, tokens, 16), device=device)]
        traced = [x.detach().clone().requires_grad_() for x in plain]
        expected = torch.autograd.grad(loss(*plain), plain)
        found = torch.autograd.grad(compiled(*traced), traced)
        for ours, want in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-4)


class Module(torch.nn.Module):
    def __init__(self, tau):
        super().__init__()
        self.tau = tau

    def forward(self, q, k, v):
        out, degree = attention_with_degree(q, k, v, 0.05, self.tau, prefix_tokens=2)
        found = attention_statistics(q, k, 0.05, self.tau, prefix_tokens=2)
        return (out, degree, attention_degree(q, k, 0.05, self.tau), *found)


def test_exported(attention):
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("tokens", min=4, max=4096)}
    exported = torch.export.export(
        Module(0.01), tuple(attention.heads((2, 3, 20, 16))), dynamic_shapes=(free,) * 3
    )
    names = {str(node.target) for node in exported.graph.nodes}
    assert "robustad.attention_with_degree.default" in names
    others = attention.heads((1, 3, 31, 16))
    for ours, want in zip(exported.module()(*others), Module(0.01)(*others), strict=True):
        torch.testing.assert_close(ours, want)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tau", [None, 0.01])
def test_translated_to_onnx(attention, tau, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    from robustad.export.translations.attention_degree import TRANSLATIONS

    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("tokens", min=4)}
    program = torch.onnx.export(
        Module(tau).eval(),
        tuple(attention.heads((2, 3, 20, 16))),
        dynamo=True,
        opset_version=18,
        custom_translation_table=TRANSLATIONS,
        dynamic_shapes=(free,) * 3,
        verbose=False,
    )
    program.save(tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    others = attention.heads((1, 3, 31, 16))
    fed = {one.name: x.numpy() for one, x in zip(session.get_inputs(), others, strict=True)}
    for theirs, ours in zip(session.run(None, fed), Module(tau)(*others), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_translated_entropy_keeps_its_digits_where_scores_are_large(attention, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    from robustad.export.translations.attention_degree import TRANSLATIONS

    class Entropy(torch.nn.Module):
        def forward(self, q, k):
            return attention_statistics(q, k, 0.05, scale=1.0).entropy

    q, k = attention.heads((1, 1, 20, 16), 2)
    q[..., 0], k[..., 0] = 256.0, 256.0  # adds 65536 to all scores
    q[..., 1:] = q[..., 1:].round()  # products that float32 holds exactly
    k[..., 1:] = k[..., 1:].round()
    program = torch.onnx.export(
        Entropy().eval(),
        (q, k),
        dynamo=True,
        opset_version=18,
        custom_translation_table=TRANSLATIONS,
        verbose=False,
    )
    program.save(tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    (theirs,) = session.run(None, dict(zip(names, (q.numpy(), k.numpy()), strict=True)))
    wanted = reference.attention_statistics(q.double(), k.double(), 0.05, scale=1.0)[2]
    assert (torch.from_numpy(theirs) - wanted).abs().max() < 1e-5
    assert (attention_statistics(q, k, 0.05, scale=1.0).entropy - wanted).abs().max() < 1e-5


def test_autocast(attention, device):
    q, k, v = attention.heads((1, 2, 20, 16), device=device)
    low = [x.bfloat16() for x in (q, k, v)]
    with torch.autocast(device, torch.bfloat16):
        out, degree = attention_with_degree(q, k, v, 0.05, 0.01)
        alone = attention_degree(q, low[1], 0.05, 0.01)
    assert (out.dtype, degree.dtype) == (torch.bfloat16, torch.float32)
    wanted_out, wanted = attention_with_degree(*low, 0.05, 0.01)
    assert torch.equal(out, wanted_out)
    assert torch.equal(degree, wanted)
    torch.testing.assert_close(alone, wanted)
