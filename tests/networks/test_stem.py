import pytest
import torch
from pydantic import ValidationError

from robustad.errors import InputError
from robustad.networks import NetworkConfig, create
from robustad.networks.stem import conv_stem

SMALL = {
    "body": "vit_small_patch16_224", "image_size": 32, "depth": 1, "embed_dim": 32, "num_heads": 2,
    "discriminator_hidden": 32,
}  # fmt: skip


@pytest.mark.parametrize("patch", [2, 4, 8, 16])
def test_a_token_a_patch_from_its_surroundings(patch):
    stem = conv_stem(patch, 32)
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    tokens = stem(x)
    assert tokens.shape == (1, 32, 32 // patch, 32 // patch)
    # without the normalisation, which sees the whole image, a token sees little more than its patch
    for part in stem:
        if isinstance(part, torch.nn.GroupNorm):
            part.forward = lambda x: x
    tokens = stem(x)
    tokens[0, :, 0, 0].sum().backward()
    seen = x.grad[0].abs().sum(dim=0) > 0
    assert seen[:patch, :patch].all()
    assert not seen[2 * patch :].any()


@pytest.mark.parametrize("patch", [1, 3, 12, 14])
def test_patches_it_cannot_make(patch):
    with pytest.raises(InputError, match=f"2, 4, 8, ... pixels, got {patch}"):
        conv_stem(patch, 32)


def test_a_network_with_it():
    network = create(NetworkConfig(**SMALL, patch_size=8, stem="conv"))
    logits, _ = network(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 16)
    with pytest.raises(InputError, match="got 14"):
        create(NetworkConfig(**SMALL | {"image_size": 28}, patch_size=14, stem="conv"))


def test_other_bodies_have_none():
    with pytest.raises(ValidationError, match="stem: only vision transformers"):
        NetworkConfig(body="unet", image_size=56, unet_depth=2, stem="conv")
