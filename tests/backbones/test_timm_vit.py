import copy

import pytest
import timm
import torch
from torch import nn

from robustad.backbones import create
from robustad.errors import InputError

# Name, patch size, length of a vector, tokens before the patches (class, distillation, registers).
MODELS = {
    "vit_small_patch14_dinov2": (14, 384, 1),
    "vit_small_patch14_reg4_dinov2": (14, 384, 5),
    "vit_tiny_patch16_224": (16, 192, 1),
    "deit_tiny_distilled_patch16_224": (16, 192, 2),
    "eva02_tiny_patch14_224": (14, 192, 1),
}
CACHE = {}


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


def backbone(name):
    if name not in CACHE:
        torch.manual_seed(0)
        CACHE[name] = create(name, "random")
    return CACHE[name]


@pytest.fixture(scope="module", autouse=True)
def _forget():
    yield
    CACHE.clear()


def image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_what_it_says_of_itself(name):
    made, (patch, dim, prefix) = backbone(name), MODELS[name]
    assert (made.patch_size, made.multiple, made.dim, made.prefix) == (patch, patch, dim, prefix)
    assert made.config.name == name
    assert made.config.layers is None
    assert not made.training
    assert made.has_weights
    cfg = timm.get_pretrained_cfg(name)
    assert made.mean.flatten().tolist() == pytest.approx(cfg.mean)
    assert made.std.flatten().tolist() == pytest.approx(cfg.std)
    assert all(key.startswith("model.") for key in made.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (1, 1)])
def test_tokens_are_timms_own(name, grid):
    made, (patch, dim, prefix) = backbone(name), MODELS[name]
    x = image(2, 3, grid[0] * patch, grid[1] * patch)
    features = made(x)
    assert features.shape == (2, grid[0] * grid[1], dim)
    assert made.grid(*x.shape[2:]) == grid
    cfg = timm.get_pretrained_cfg(name)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (cfg.mean, cfg.std))
    tokens = made.model.forward_features((x - mean) / std)
    assert tokens.shape[1] == prefix + grid[0] * grid[1]
    torch.testing.assert_close(features, tokens[:, prefix:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_tokens_are_normalised():
    made = backbone("vit_small_patch14_dinov2")
    features = made(image(1, 3, 56, 56))
    assert isinstance(made.model.norm, nn.LayerNorm)
    # a layer norm with its initial weights leaves mean 0 and variance 1
    assert features.mean(dim=2).abs().max() < 1e-5
    torch.testing.assert_close(
        features.var(dim=2, unbiased=False), torch.ones(1, 16), rtol=0, atol=1e-3
    )


@torch.no_grad()
def test_each_token_belongs_to_its_patch():
    # Without attention and MLPs a token depends on its own patch alone.
    made = copy.deepcopy(backbone("vit_small_patch14_reg4_dinov2"))
    for block in made.model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    patch = made.patch_size
    x = image(1, 3, 3 * patch, 5 * patch)
    plain = made(x)
    for row, column in [(0, 0), (1, 3), (2, 4)]:
        other = x.clone()
        box = other[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        box.copy_(1 - box)
        moved = (made(other) - plain).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.nonzero().flatten().tolist() == [row * 5 + column]


@torch.no_grad()
def test_images_of_a_batch_do_not_meet():
    made = backbone("vit_tiny_patch16_224")
    x = image(3, 3, 32, 48)
    one_by_one = torch.cat([made(one[None]) for one in x])
    torch.testing.assert_close(made(x), one_by_one, rtol=0, atol=1e-5)


def test_gradients_reach_the_image():
    made = backbone("vit_tiny_patch16_224")
    x = image(1, 3, 32, 48).requires_grad_()
    made(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad.abs().amax(dim=(0, 1)) > 0).all()


def test_random_weights_follow_the_seed():
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(create("vit_tiny_patch16_224", "random").state_dict())
    first, same, other = (state["model.blocks.0.attn.qkv.weight"] for state in made)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


# Errors


def test_it_takes_no_layers():
    with pytest.raises(
        InputError,
        match=r"^layers: only CNN backbones take layers, vit_tiny_patch16_224 is a ViT$",
    ):
        create("vit_tiny_patch16_224", "random", layers=(3,))


def test_a_model_of_one_image_size():
    with pytest.raises(
        InputError, match=r"^backbone 'beit_base_patch16_224': expected a ViT that takes images of"
    ):
        create("beit_base_patch16_224", "random")


@pytest.mark.parametrize("size", [(30, 28), (28, 15), (13, 14), (0, 14)])
def test_sizes_that_are_no_multiple(size):
    made = backbone("vit_small_patch14_dinov2")
    with pytest.raises(
        InputError,
        match=rf"^x: expected height and width to be multiples of 14 pixels, got {size[0]} x "
        rf"{size[1]}; `prepare` resizes and crops images$",
    ):
        made(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (3, 28, 28), (1, 28, 28, 3)])
def test_other_shapes(shape):
    with pytest.raises(
        InputError, match=r"^x: expected a floating-point tensor \(B, 3, H, W\), got \("
    ):
        backbone("vit_small_patch14_dinov2")(torch.zeros(shape))
    with pytest.raises(InputError, match=r"got \(1, 3, 28, 28\) of torch.uint8$"):
        backbone("vit_small_patch14_dinov2")(torch.zeros(1, 3, 28, 28, dtype=torch.uint8))
