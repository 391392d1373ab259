"""Every operator under `torch.func` and forward mode: no derivative may be lost without a word."""

import pytest
import torch
from torch.autograd import forward_ad

from robustad.ops import (
    attention_degree,
    attention_statistics,
    attention_with_degree,
    cosine_nn,
    pack_bank,
    topk_mean,
)

BANK = pack_bank(torch.randn(30, 6, generator=torch.Generator().manual_seed(1)))


def heads(x):
    return x.reshape(1, 2, 7, 6)


FUNCTIONS = {
    "cosine_nn": lambda x: cosine_nn(x.reshape(14, 6), BANK, 2)[0].sum(),
    "soft minimum": lambda x: cosine_nn(x.reshape(14, 6), BANK, 4, temperature=0.1)[0].sum(),
    "topk_mean": lambda x: topk_mean(x.reshape(14, 6), 3).square().sum(),
    "attention_degree": lambda x: attention_degree(heads(x), heads(x), 0.2, 0.1).square().sum(),
    "attention_statistics": lambda x: sum(
        one.square().sum()
        for one in attention_statistics(heads(x), heads(x), 0.2, 0.1, prefix_tokens=1)
    ),
    "attention_with_degree": lambda x: sum(
        one.square().sum() for one in attention_with_degree(heads(x), heads(x), heads(x), 0.2, 0.1)
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms_find_the_derivative_of_the_kernels(name):
    function = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    x, along = (torch.randn(84, generator=generator) for _ in range(2))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf), leaf)
    slope = expected @ along
    assert slope.abs() > 1e-3
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(torch.func.grad(function)(x), expected, **close)
    torch.testing.assert_close(torch.func.jvp(function, (x,), (along,))[1], slope, **close)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(x, along))).tangent
        torch.testing.assert_close(tangent, slope, **close)
    both = torch.func.vmap(torch.func.grad(function))(torch.stack([x, -x]))
    torch.testing.assert_close(both[0], expected, **close)
