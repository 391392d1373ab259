import math

import pytest
import torch
import torch.nn.functional as F

from robustad.errors import InputError
from robustad.networks import Attention
from robustad.training.config import RegulariserConfig
from robustad.training.regulariser import (
    layer_weights,
    regulariser,
    resolve_layer,
    spread,
    watched_layers,
)


def drawn(seed=0, prefix=2, sharp=1.0):
    generator = torch.Generator().manual_seed(seed)
    q, k = (sharp * torch.randn(2, 3, 9 + prefix, 8, generator=generator) for _ in range(2))
    return Attention("block 1", q, k, prefix, 8**-0.5)


def dense(one, renormalise=True):
    """Attention between patches, all of it."""
    full = ((one.q @ one.k.mT) * one.scale).softmax(dim=-1)
    inner = full[..., one.prefix_tokens :, one.prefix_tokens :]
    return inner / inner.sum(dim=-1, keepdim=True) if renormalise else inner


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("per", ["row", "entry"])
def test_kl_is_torch_s(renormalise, per):
    one = drawn()
    config = RegulariserConfig(term="kl", weight=0.5, renormalise=renormalise, per=per)
    maps = dense(one, renormalise)
    uniform = torch.full_like(maps, 1 / 9)
    elements = F.kl_div(maps.log(), uniform, reduction="none")
    expected = elements.mean(dim=(1, 2, 3)) if per == "entry" else elements.sum(3).mean((1, 2))
    torch.testing.assert_close(regulariser([one], [2.0], config), 0.5 * 2.0 * expected)


def test_entropy_is_the_other_direction():
    one = drawn()
    maps = dense(one)
    expected = (maps * (maps * 9).log()).sum(dim=-1).mean(dim=(1, 2))
    config = RegulariserConfig(term="entropy", weight=1.0)
    torch.testing.assert_close(regulariser([one], [1.0], config), expected, rtol=1e-4, atol=1e-5)


def test_degree_counts_softly():
    one = drawn()
    config = RegulariserConfig(term="degree", weight=1.0, delta=0.1, tau=0.02)
    expected = 1 - ((dense(one) - 0.1) / 0.02).sigmoid().sum(dim=-1).mean(dim=(1, 2)) / 9
    torch.testing.assert_close(regulariser([one], [1.0], config), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("term", ["degree", "kl", "entropy"])
def test_its_gradient_spreads_attention(term):
    """A few steps down the penalty raise the entropy of narrow attention."""
    one = drawn(sharp=3.0)
    config = RegulariserConfig(term=term, weight=1.0, delta=1 / 9, tau=0.05)
    q, k = one.q.clone().requires_grad_(), one.k.clone().requires_grad_()
    before = spread([one])["block 1"]
    for _ in range(100):
        penalty = regulariser([one._replace(q=q, k=k)], [1.0], config).sum()
        gradients = torch.autograd.grad(penalty, (q, k))
        q, k = (
            (x - 2.0 * g).detach().requires_grad_() for x, g in zip((q, k), gradients, strict=True)
        )
    after = spread([one._replace(q=q.detach(), k=k.detach())])["block 1"]
    assert after.degree > before.degree
    if term != "degree":
        assert after.entropy > before.entropy
        assert after.effective_degree > before.effective_degree


def test_uniform_attention_costs_nothing():
    zero = torch.zeros(1, 2, 6, 4)
    one = Attention("block 1", zero, zero, 1, 0.5)
    for term in ("kl", "entropy"):
        config = RegulariserConfig(term=term, weight=1.0)
        assert regulariser([one], [1.0], config).abs().max() < 1e-6
    found = spread([one])["block 1"]
    assert found.effective_degree == pytest.approx(5, abs=1e-4)
    assert found.entropy == pytest.approx(math.log(5), abs=1e-5)


def test_layers_by_name(toy):
    toy.attention_layers = ("block 1", "block 2", "discriminator")
    config = RegulariserConfig(layers={"last": 1.0, "discriminator": 0.5})
    assert layer_weights(config, toy) == {"block 2": 1.0, "discriminator": 0.5}
    toy.attention_layers = ("block 1", "block 2")
    assert layer_weights(config, toy) == {"block 2": 1.0}
    toy.attention_layers = ()
    assert layer_weights(config, toy) == {}  # a convolutional body has none
    assert layer_weights(RegulariserConfig(term="none"), toy) == {}


def test_a_deeper_discriminator_is_no_block(toy):
    """`last` is the body's last block, however many layers the discriminator has."""
    toy.attention_layers = ("block 1", "block 2", "discriminator 1", "discriminator")
    assert resolve_layer("last", toy) == "block 2"
    assert resolve_layer("last-1", toy) == "block 1"
    assert resolve_layer("discriminator 1", toy) == "discriminator 1"


def test_a_layer_by_two_names_has_both_weights(toy):
    toy.attention_layers = ("block 1", "block 2")
    config = RegulariserConfig(layers={"last": 1.0, "block 2": 0.5})
    assert layer_weights(config, toy) == {"block 2": 1.5}


def test_what_is_regularised_is_logged(toy):
    toy.attention_layers = ("block 1", "block 2", "block 3", "discriminator 1", "discriminator")
    config = RegulariserConfig(layers={"block 1": 0.1})
    assert watched_layers(config, toy) == ["block 1", "block 3", "discriminator"]
    none = RegulariserConfig(term="none")
    assert watched_layers(none, toy) == ["block 3", "discriminator"]
    toy.attention_layers = ()
    assert watched_layers(config, toy) == []


@pytest.mark.parametrize("term", ["degree", "kl", "entropy"])
def test_sparse_attention_in_sixteen_bits_is_counted_in_full_precision(term):
    """As dense attention is: what bfloat16 queries and keys say, without its rounding of sums."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, 256, 16, generator=generator).bfloat16() for _ in range(2))
    allowed = torch.rand(256, 256, generator=generator) < 0.5
    allowed |= torch.eye(256, dtype=torch.bool)
    one = Attention("block 1", q, k, 0, 0.25, allowed)
    exact = one._replace(q=q.double(), k=k.double())
    config = RegulariserConfig(term=term, weight=1.0)
    found, expected = (regulariser([a], [1.0], config) for a in (one, exact))
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-5)
    assert spread([one])["block 1"].entropy == pytest.approx(
        spread([exact])["block 1"].entropy, rel=1e-5
    )


def test_a_layer_that_is_not_there(toy):
    toy.attention_layers = ("block 1", "discriminator")
    with pytest.raises(
        InputError, match=r"some of last, last-1, .*, block 1, discriminator, got 'block 6'"
    ):
        resolve_layer("block 6", toy)
    with pytest.raises(InputError, match=r"got 'discrimnator'; did you mean discriminator\?"):
        resolve_layer("discrimnator", toy)


@pytest.mark.parametrize("term", ["degree", "kl", "entropy"])
def test_sparse_attention_with_all_columns_is_dense(term):
    one = drawn()
    everything = one._replace(allowed=torch.ones(11, 11, dtype=torch.bool))
    config = RegulariserConfig(term=term, weight=1.0, delta=0.1, tau=0.02)
    torch.testing.assert_close(
        regulariser([everything], [1.0], config),
        regulariser([one], [1.0], config),
        rtol=1e-4,
        atol=1e-5,
    )
    for a, b in zip(spread([everything])["block 1"], spread([one])["block 1"], strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("renormalise", [True, False])
def test_kl_of_sparse_attention_is_torch_s(renormalise):
    """Over the columns a row sees; prefix tokens take their share unless rows are renormalised."""
    one, generator = drawn(prefix=2), torch.Generator().manual_seed(3)
    allowed = torch.rand(11, 11, generator=generator) < 0.6
    allowed |= torch.eye(11, dtype=torch.bool)
    allowed[:, :2] = True  # prefix tokens are seen by all
    one = one._replace(allowed=allowed)
    scores = ((one.q @ one.k.mT) * one.scale).masked_fill(~allowed, -torch.inf)
    maps = scores.softmax(dim=-1)[..., 2:, 2:]
    if renormalise:
        maps = maps / maps.sum(dim=-1, keepdim=True)
    expected = torch.zeros(2)
    for row in range(9):
        seen = allowed[2 + row, 2:]
        part = maps[:, :, row, seen]
        uniform = torch.full_like(part, 1 / int(seen.sum()))
        expected += F.kl_div(part.log(), uniform, reduction="none").sum(-1).mean(1) / 9
    config = RegulariserConfig(term="kl", weight=1.0, renormalise=renormalise)
    torch.testing.assert_close(regulariser([one], [1.0], config), expected)


def test_sparse_attention_is_uniform_over_what_it_sees():
    zero = torch.zeros(1, 2, 6, 4)
    allowed = torch.eye(6, dtype=torch.bool) | torch.eye(6, dtype=torch.bool).roll(1, 1)
    one = Attention("block 1", zero, zero, 0, 0.5, allowed)
    for term in ("kl", "entropy"):
        config = RegulariserConfig(term=term, weight=1.0)
        assert regulariser([one], [1.0], config).abs().max() < 1e-6
    assert spread([one])["block 1"].effective_degree == pytest.approx(2)
    assert spread([one])["block 1"].degree == 2
