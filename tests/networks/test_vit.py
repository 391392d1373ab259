import copy

import pytest
import timm
import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Attention as TimmAttention

import robustad.backbones.weights as weights_module
from robustad.errors import InputError, WeightsError
from robustad.networks import NetworkConfig, create, set_fused_attention
from robustad.networks.attention import SelfAttention
from robustad.networks.vit import ViTNetwork

PLAIN = "vit_small_patch14_dinov2"
REGISTERS = "vit_small_patch14_reg4_dinov2"
# Of every kind that timm's plain ViTs differ in.
KINDS = {
    PLAIN: 1,
    REGISTERS: 5,
    "vit_base_patch16_rpn_224": 0,  # normalises after attention; no class token
    "vit_base_patch16_siglip_224": 0,  # attention pooling, which is not trained here
    "beit3_base_patch16_224": 1,  # normalises inside attention, and after pooling
    "vit_base_patch16_clip_224": 1,  # normalises before the blocks
}


def timm_twin(network):
    """Plain timm with the network's weights, and the maps that its own attention forms."""
    config = network.config
    twin = timm.create_model(
        config.body,
        num_classes=0,
        img_size=config.image_size,
        init_values=config.layer_scale,
        **config.shrinking,
    ).eval()
    twin.load_state_dict(network.body.state_dict(), strict=False)
    maps = []
    for block in twin.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *call: maps.append(call[1][0]))
    return twin, maps


@pytest.mark.parametrize("body", KINDS)
def test_taps_and_tokens_are_those_of_timm(tiny, body):
    network = tiny(body=body, image_size=64, patch_size=16)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    twin, maps = timm_twin(network)
    expected = twin.forward_features((x - network.mean) / network.std)
    tokens, taken = network.tokens(x, ["block 2", "block 1"])
    prefix = KINDS[body]
    assert network.prefix_tokens == prefix
    assert tokens.shape == (2, 16, 32)
    torch.testing.assert_close(tokens, twin.fc_norm(expected)[:, prefix:])
    assert [one.layer for one in taken] == ["block 1", "block 2"]
    assert len(maps) == 2
    for one, full in zip(taken, maps, strict=True):
        scores = one.scale * one.q @ one.k.transpose(-2, -1)
        torch.testing.assert_close(scores.softmax(-1), full)
        patches = full[:, :, prefix:, prefix:]
        torch.testing.assert_close(one.map(), patches / patches.sum(-1, keepdim=True))
        assert (one.prefix_tokens, one.allowed) == (prefix, None)


def test_asking_for_attention_does_not_change_the_logits(tiny, images):
    for options in ({"body": PLAIN}, {"body": "vit_base_patch16_rpn_224", "patch_size": 14}):
        network = tiny(**options)
        plain, none = network(images)
        logits, maps = network(images, ["discriminator", "block 1"])
        assert none == []
        assert [one.layer for one in maps] == ["discriminator", "block 1"]
        assert torch.equal(plain, logits)


def test_fused_and_written_out_attention_agree(tiny, images):
    network = tiny(body=REGISTERS)
    fused = network(images)[0]
    set_fused_attention(network, False)
    assert not any(getattr(part, "fused_attn", False) for part in network.modules())
    torch.testing.assert_close(network(images)[0], fused)


@pytest.mark.parametrize(
    "options", [{}, {"qk_norm": True}, {"scale_norm": True}, {"gated": True, "qkv_bias": True}]
)
def test_timm_attention_is_taken_over_with_all_its_parts(options):
    torch.manual_seed(0)
    theirs = TimmAttention(32, num_heads=4, norm_layer=LayerNorm, attn_drop=0.3, **options)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    ours = SelfAttention.of_timm(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(2, 9, 32)
    ours.eval()
    torch.testing.assert_close(ours(x), theirs.eval()(x))
    seen = []
    theirs.fused_attn = False
    theirs.attn_drop.register_forward_hook(lambda *call: seen.append(call[1][0]))
    theirs(x)
    _, q, k = ours.attend(x)
    torch.testing.assert_close((ours.scale * q @ k.mT).softmax(-1), seen[0])
    with pytest.raises(InputError, match="expected none, patches all see each other"):
        ours(x, attn_mask=torch.ones(9, 9))


def test_other_attention_is_refused():
    with pytest.raises(InputError, match="timm's plain attention, got Linear"):
        SelfAttention.of_timm(torch.nn.Linear(2, 2))


def test_dropout_acts_in_training_only(tiny, images):
    network = tiny(discriminator_dropout=0.5)
    assert torch.equal(network(images)[0], network(images)[0])
    for fused in (True, False):
        set_fused_attention(network, fused)
        network.train()
        assert not torch.equal(network(images)[0], network(images)[0])


@pytest.mark.parametrize(
    ("body", "count", "dim"),
    [
        # As published with 37 x 37 positions, less those that are too many and the mask token.
        ("vit_small_patch14_dinov2", 22_056_576 - 1114 * 384, 384),
        ("vit_base_patch14_dinov2", 86_580_480 - 1114 * 768, 768),
        ("vit_base_patch14_reg4_dinov2", 86_580_480 - 1114 * 768 + 3 * 768, 768),
        ("vit_large_patch14_dinov2", 304_368_640 - 1114 * 1024, 1024),
        ("vit_base_patch16_224", 85_798_656, 768),
    ],
)
def test_sizes_at_224(body, count, dim):
    with torch.device("meta"):  # shapes, no memory
        network = create(NetworkConfig(body=body))
    assert isinstance(network, ViTNetwork)
    patches = 196 if "16" in body else 256
    logits, maps = network(torch.rand(2, 3, 224, 224, device="meta"), ["discriminator"])
    assert logits.shape == (2, patches)
    assert maps[0].q.shape == (2, 4, patches, dim // 4)
    assert sum(p.numel() for p in network.body.parameters()) == count
    head = sum(p.numel() for p in network.head.parameters())
    layer = 4 * dim * dim + 4 * dim + 2 * dim + 2 * 2048 * dim + 2048 + dim
    assert head == layer + patches * dim + dim + 1
    depth = 24 if "large" in body else 12
    assert network.attention_layers == (
        *(f"block {i}" for i in range(1, depth + 1)),
        "discriminator",
    )


def test_without_discriminator_the_mlp_sits_on_the_last_block(tiny, images):
    network = tiny(discriminator=False)
    assert network.attention_layers == ("block 1", "block 2")
    tokens = network.tokens(images)[0]
    assert torch.equal(network(images)[0], network.head(tokens)[0])
    one = network.head(tokens[:, 3:4])[0]  # each token by itself
    torch.testing.assert_close(one, network(images)[0][:, 3:4])


@pytest.mark.parametrize(("option", "found"), [(0.1, 0.1), (None, None), ("model", 1e-5)])
def test_layer_scale(tiny, option, found):
    block = tiny(layer_scale=option).body.blocks[0]
    gamma = getattr(block.ls1, "gamma", None)
    if found is None:
        assert gamma is None
    else:
        torch.testing.assert_close(gamma, torch.full_like(gamma, found))
    after = tiny(layer_scale=option, body="vit_base_patch16_rpn_224", image_size=64).body.blocks[1]
    factor = after.norm1.weight
    torch.testing.assert_close(factor, torch.full_like(factor, 1.0 if found is None else found))


def test_weights_with_layer_scale_are_not_taken_without(tiny, tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(tiny().body.state_dict(), path)
    config = tiny(layer_scale=None).config
    with pytest.raises(WeightsError, match=r"has no tensor 'blocks.0.ls1.gamma'"):
        create(config, path)


def test_normalisation_is_the_models_own(tiny):
    assert tiny().mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    other = tiny(body="vit_base_patch16_siglip_224", image_size=64)
    assert other.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert "mean" not in other.state_dict()


@pytest.mark.parametrize("discriminator", [True, False])
def test_every_parameter_and_the_image_get_a_gradient(tiny, images, discriminator):
    """As distributed training demands: no parameter may be left out."""
    for body in (REGISTERS, "vit_base_patch16_siglip_224", "beit3_base_patch16_224"):
        network = tiny(body=body, patch_size=14, discriminator=discriminator).train()
        x = images.clone().requires_grad_()
        network(x)[0].square().sum().backward()
        assert x.grad is not None
        assert (x.grad.abs().amax(dim=(1, 2, 3)) > 0).all()
        left_out = [name for name, p in network.named_parameters() if p.grad is None]
        assert left_out == []


def test_gradient_through_the_attention(tiny, images):
    network = tiny(body=REGISTERS)
    for layer in ("block 1", "block 2", "discriminator"):
        x = images.clone().requires_grad_()
        one = network(x, [layer])[1][0]
        (one.map() * torch.rand(16, 16)).sum().backward()
        assert x.grad is not None
        assert x.grad.abs().sum() > 0


def test_copies_are_independent(tiny, images):
    network = tiny()
    twin = copy.deepcopy(network)
    before = network(images, ["block 2"])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    after = network(images, ["block 2"])
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1][0].q, after[1][0].q)
    assert not torch.equal(twin(images)[0], before[0])
    other = tiny(seed=5)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(images)[0], before[0])


def test_forward_compiles_as_one_graph(tiny, images):
    """Sparse attention in the blocks, full attention in the discriminator."""
    network = tiny(body=REGISTERS, attention="bigbird", bigbird={"block_size": 2})

    def step(x):
        logits, maps = network(x, ["block 2", "discriminator"])
        return logits.sum() + sum(one.map().square().sum() for one in maps)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    x, y = images.clone().requires_grad_(), images.clone().requires_grad_()
    step(x).backward()
    compiled(y).backward()
    torch.testing.assert_close(y.grad, x.grad)


def test_forward_can_be_exported_with_attention(tiny, images):
    network = tiny()

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            logits, maps = self.network(x, ["block 1"])
            return logits, maps[0].q, maps[0].k

    batch = torch.export.Dim("batch")
    program = torch.export.export(Both(), (images,), dynamic_shapes=({0: batch},)).module()
    more = torch.cat([images, images.flip(3)])
    for found, expected in zip(program(more), Both()(more), strict=True):
        torch.testing.assert_close(found, expected)


def test_bf16_autocast(tiny, images):
    network = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        logits, maps = network(images, ["block 2"])
    assert maps[0].q.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), network(images)[0], atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("x", "attention", "message"),
    [
        (torch.zeros(1, 3, 56, 70), (), r"\(B, 3, 56, 56\), got \(1, 3, 56, 70\)"),
        (torch.zeros(3, 56, 56), (), r"got \(3, 56, 56\)"),
        (torch.zeros(1, 3, 56, 56, dtype=torch.uint8), (), "floating-point .* torch.uint8"),
        (torch.zeros(1, 3, 56, 56), ["block 3"], r"no layer 'block 3' \(block 1, block 2, disc"),
    ],
)
def test_bad_input_is_refused(tiny, x, attention, message):
    with pytest.raises(InputError, match=message):
        tiny()(x, attention)


def test_weights_from_a_file_are_resampled_to_the_size(tiny, images, tmp_path):
    source = tiny(seed=3, image_size=112)
    path = tmp_path / "vit.pth"
    torch.save(source.body.state_dict(), path)
    config = tiny().config
    network = create(config, path)
    assert network.training
    assert torch.equal(
        network.body.blocks[0].attn.qkv.weight, source.body.blocks[0].attn.qkv.weight
    )
    assert network.body.pos_embed.shape == (1, 17, 32)
    with pytest.raises(WeightsError, match="no such checkpoint file"):
        create(config, tmp_path / "none.pth")
    torch.save({"cls_token": torch.zeros(1, 1, 32)}, path)
    with pytest.raises(WeightsError, match="tensors are missing"):
        create(config, path)


def test_published_weights_need_the_published_shape(tiny):
    for weights in ("published", PLAIN, f"{PLAIN}.lvd142m"):
        with pytest.raises(InputError, match="changes depth, embed_dim, num_heads"):
            create(tiny().config, weights)
    with pytest.raises(InputError, match="changes layer_scale"):
        create(NetworkConfig(layer_scale=None), "published")


@pytest.mark.parametrize(
    ("weights", "name"),
    [("published", PLAIN), (f"{PLAIN}.lvd142m", f"{PLAIN}.lvd142m"), (PLAIN, PLAIN)],
)
def test_published_weights_are_looked_for_under_their_name(monkeypatch, weights, name):
    monkeypatch.setattr(weights_module, "_cached", lambda name: False)
    monkeypatch.setattr(weights_module, "_no_network", lambda: True)
    with pytest.raises(WeightsError, match=f"backbone '{name}': its weights are not in the local"):
        create(NetworkConfig(), weights)
