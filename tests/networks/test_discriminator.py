import pytest
import torch
from torch import nn

from robustad.errors import InputError
from robustad.networks.discriminator import Discriminator


def of(**options):
    torch.manual_seed(0)
    return Discriminator(24, 9, heads=3, hidden=40, dropout=0.0, **options)


def test_layer_is_torchs_attention_with_the_same_weights():
    head = of()
    layer = head.layers[0]
    theirs = nn.MultiheadAttention(24, 3, batch_first=True)
    theirs.in_proj_weight.data = layer.attn.qkv.weight.data
    theirs.in_proj_bias.data = layer.attn.qkv.bias.data
    theirs.out_proj.load_state_dict(layer.attn.proj.state_dict())
    tokens = torch.randn(2, 9, 24)
    x = tokens + head.positions
    attended, entries = theirs(x, x, x, average_attn_weights=False)
    y = layer.norm(x + attended)
    expected = head.output(y + layer.mlp(y)).squeeze(-1)
    logits, maps = head(tokens, ["discriminator"])
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(maps[0].map(), entries)
    assert maps[0].prefix_tokens == 0


def test_start_is_torchs():
    """The same distributions: uniform within Xavier's bound, no biases, normal positions."""
    torch.manual_seed(0)
    head = Discriminator(256, 256)
    attn = head.layers[0].attn
    bound = (6 / (256 + 3 * 256)) ** 0.5
    assert attn.qkv.weight.abs().max() <= bound
    assert attn.qkv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not attn.qkv.bias.any()
    assert not attn.proj.bias.any()
    assert head.positions.std().item() == pytest.approx(1.0, abs=0.02)


def test_positions_tell_patches_apart():
    tokens = torch.zeros(1, 9, 24)
    logits = of()(tokens)[0]
    assert logits.unique().numel() == 9


def test_more_layers_are_named():
    head = of(layers=3)
    assert head.attention_layers == ("discriminator 1", "discriminator 2", "discriminator")
    _, maps = head(torch.randn(1, 9, 24), ["discriminator", "discriminator 1"])
    assert {one.layer for one in maps} == {"discriminator", "discriminator 1"}
    assert sum(p.numel() for p in head.layers.parameters()) == 3 * sum(
        p.numel() for p in of().layers.parameters()
    )


def test_heads_have_to_divide_the_width():
    with pytest.raises(InputError, match="divisor of the 24 channels, got 5"):
        Discriminator(24, 9, heads=5)
