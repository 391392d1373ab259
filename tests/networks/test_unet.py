import pytest
import torch

from robustad.errors import InputError
from robustad.networks import NetworkConfig, create


def small(**options):
    torch.manual_seed(0)
    config = NetworkConfig(
        body="unet", **{"image_size": 56, "unet_width": 8, "unet_depth": 3, **options}
    )
    return create(config).eval()


def test_one_logit_a_pixel(images):
    network = small()
    logits, maps = network(images)
    assert logits.shape == (2, 56 * 56)
    assert maps == []
    assert (network.grid, network.patch_size, network.attention_layers) == ((56, 56), 1, ())


def test_pixels_stay_where_they_are(images):
    """A change in one corner is answered there most, and rows come before columns."""
    network = small(unet_depth=1)
    changed = images.clone()
    changed[:, :, 4:8, 40:44] = 1 - changed[:, :, 4:8, 40:44]
    differs = (network(changed)[0] - network(images)[0]).abs().reshape(2, 56, 56) > 1e-7
    rows, columns = differs.any(0).nonzero().unbind(1)
    assert 0 <= rows.min() < 4 < 8 < rows.max() < 24
    assert 24 < columns.min() < 40 < 44 < columns.max() < 56


def test_every_parameter_and_pixel_gets_a_gradient(images):
    network = small().train()
    x = images.clone().requires_grad_()
    network(x)[0].square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert x.grad is not None
    assert (x.grad != 0).float().mean() > 0.9


def test_size():
    with torch.device("meta"):
        network = create(NetworkConfig(body="unet"))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(31.0e6, rel=0.01)


def test_nobody_publishes_weights():
    assert create(NetworkConfig(body="unet", unet_width=2), "random").training
    with pytest.raises(InputError, match="expected None or 'random' for a U-Net, got 'published'"):
        create(NetworkConfig(body="unet"), "published")


def test_layer_names_are_refused(images):
    with pytest.raises(InputError, match="no layer 'discriminator'"):
        small()(images, ["discriminator"])
