import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustad.networks import BigBirdConfig
from robustad.networks.bigbird import BigBirdAttention, visible_blocks


def attention(prefix=1, patches=24, layer=0, dim=16, heads=2, dropout=0.0, **pattern):
    torch.manual_seed(0)
    return BigBirdAttention(
        nn.Linear(dim, 3 * dim),
        nn.Linear(dim, dim),
        heads,
        scale=(dim // heads) ** -0.5,
        dropout=dropout,
        patches=patches,
        prefix_tokens=prefix,
        config=BigBirdConfig(**pattern),
        layer=layer,
    )


def dense(module, x):
    """The same attention as one masked matrix."""
    batch, count, dim = x.shape
    q, k, v = module.qkv(x).reshape(batch, count, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = (module.scale * q @ k.mT).masked_fill(~module.allowed, -torch.inf)
    return module.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, count, dim))


def by_hand(total, size, prefix, config, blocks):
    """Which tokens see which, token by token, from the rules alone but for the random draw."""
    first = prefix + size * config.global_blocks
    count = total * size + prefix
    seen = torch.zeros(count, count, dtype=torch.bool)
    for row in range(count):
        for column in range(count):
            if row < first or column < first:
                seen[row, column] = True
            else:
                own, other = (row - first) // size, (column - first) // size
                seen[row, column] = other in blocks[own].tolist()
    return seen


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("prefix", "pattern"),
    [
        (1, {"block_size": 4}),
        (0, {"block_size": 4, "global_blocks": 0, "random_blocks": 0}),
        (5, {"block_size": 2, "global_blocks": 2, "random_blocks": 3, "window": 5}),
        (1, {"block_size": 1, "window": 1, "random_blocks": 1}),
        (1, {"block_size": 24, "global_blocks": 0}),  # one block: dense
        (1, {"block_size": 12, "global_blocks": 5}),  # all blocks global: dense
    ],
)
def test_blockwise_is_the_masked_matrix(prefix, pattern, fused):
    module = attention(prefix, **pattern).double()
    module.fused_attn = fused
    x = torch.randn(3, 24 + prefix, 16, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    weight = torch.randn(3, 24 + prefix, 16, dtype=torch.float64)
    found, expected = module(x), dense(module, y)
    torch.testing.assert_close(found, expected)
    (found * weight).sum().backward()
    of_parameters = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    for ours, parameter in zip(of_parameters, module.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad)


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(1, 9),
    window=st.sampled_from([1, 3, 5]),
    near_all=st.integers(0, 3),
    random_blocks=st.integers(0, 4),
    seed=st.integers(0, 5),
)
def test_pattern(total, window, near_all, random_blocks, seed):
    config = BigBirdConfig(
        block_size=2,
        window=window,
        global_blocks=near_all,
        random_blocks=random_blocks,
        seed=seed,
    )
    blocks = visible_blocks(total, config, layer=1)
    count = max(0, total - near_all)
    assert blocks.shape == (count, min(count, window + random_blocks))
    for own, row in enumerate(blocks.tolist()):
        assert row == sorted(set(row))
        assert all(0 <= block < count for block in row)
        reach = range(max(0, own - window // 2), min(count, own + window // 2 + 1))
        assert set(reach) <= set(row)
    if near_all <= total:
        module = attention(prefix=1, patches=2 * total, layer=1, **config.model_dump())
        assert torch.equal(module.allowed, by_hand(total, 2, 1, config, blocks))


def test_seed_and_layer_choose_the_random_blocks():
    config = BigBirdConfig(block_size=1, random_blocks=2)
    assert torch.equal(visible_blocks(16, config, 0), visible_blocks(16, config, 0))
    assert not torch.equal(visible_blocks(16, config, 0), visible_blocks(16, config, 1))
    other = BigBirdConfig(block_size=1, random_blocks=2, seed=1)
    assert not torch.equal(visible_blocks(16, config, 0), visible_blocks(16, other, 0))
    # Saved files rely on it: the pattern is made anew from the configuration.
    small = visible_blocks(8, BigBirdConfig(window=1, random_blocks=1), 0)
    assert small.tolist() == [[0, 4], [1, 4], [2, 4], [2, 3], [2, 4], [4, 5], [0, 6]]


def test_fewer_products_than_dense():
    """Nothing of N x N is formed: the largest matrix has a block's rows and what it sees."""
    module = attention(prefix=1, patches=64, block_size=4)
    module.fused_attn = False
    shapes = []
    original = torch.Tensor.softmax

    def spy(tensor, *args, **kwargs):
        shapes.append(tuple(tensor.shape))
        return original(tensor, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "softmax", spy)
        module(torch.randn(1, 65, 16))
    # 15 blocks of 4 rows see 5 global tokens and 5 blocks; 5 global rows see all.
    assert sorted(shapes) == [(1, 2, 5, 65), (2, 15, 4, 25)]


def test_taps_respect_the_pattern(tiny, images):
    network = tiny(attention="bigbird", bigbird={"block_size": 2, "random_blocks": 1})
    _, (one, head) = network(images, ["block 2", "discriminator"])
    assert head.allowed is None
    assert one.allowed is not None
    patches = one.allowed[1:, 1:]
    entries = one.map()
    assert (entries[:, :, ~patches] == 0).all()
    assert (entries[:, :, patches] > 0).all()
    torch.testing.assert_close(entries.sum(-1), torch.ones(2, 2, 16))
    rows = patches.sum(1)
    assert set(rows.tolist()) == {10, 16}  # 2 global patches and 4 blocks of 2; all


def test_full_pattern_is_full_attention(tiny, images):
    full = tiny()
    sparse = tiny(attention="bigbird", bigbird={"block_size": 2, "window": 7})
    sparse.load_state_dict(full.state_dict())  # the same keys
    assert sparse.body.blocks[0].attn.allowed.all()
    torch.testing.assert_close(sparse(images)[0], full(images)[0])


def test_dropout_in_training():
    module = attention(block_size=4, dropout=0.5).train()
    x = torch.randn(1, 25, 16)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
