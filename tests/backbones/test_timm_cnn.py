from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from robustad.backbones import create
from robustad.errors import InputError

TRUNK = Path(__file__).parents[2] / ".." / "shared" / "weights" / "resnet18_layers1to3.safetensors"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def joined(levels, grid):
    """PatchCore's joining, written out: 3 x 3 means, bilinear to the finest level, side by side."""
    maps = []
    for level in levels:
        padded = F.pad(level, (1, 1, 1, 1))
        ones = F.pad(torch.ones_like(level), (1, 1, 1, 1))
        windows = [
            (
                padded[..., i : i + level.shape[2], j : j + level.shape[3]],
                ones[..., i : i + level.shape[2], j : j + level.shape[3]],
            )
            for i in range(3)
            for j in range(3)
        ]
        smooth = sum(window for window, _ in windows) / sum(count for _, count in windows)
        maps.append(F.interpolate(smooth, grid, mode="bilinear", align_corners=False))
    return torch.cat(maps, dim=1).permute(0, 2, 3, 1).flatten(1, 2)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return create("resnet18", "random")


def trunk_levels(model, x):
    """Levels 0 to 4 of a ResNet of timm's, level by level."""
    x = (x - MEAN.view(1, 3, 1, 1)) / STD.view(1, 3, 1, 1)
    levels = [model.act1(model.bn1(model.conv1(x)))]
    x = model.maxpool(levels[0])
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = stage(x)
        levels.append(x)
    return levels


def test_what_it_says_of_itself(resnet):
    assert (resnet.patch_size, resnet.multiple, resnet.dim) == (8, 16, 128 + 256)
    assert resnet.config.layers == (2, 3)
    assert resnet.mean.flatten().tolist() == MEAN.tolist()
    assert resnet.std.flatten().tolist() == STD.tolist()
    assert not resnet.training
    assert not resnet.model.training


@torch.no_grad()
@pytest.mark.parametrize("layers", [None, (2,), (1, 2, 3), (0, 4)])
def test_features_are_timms_own_joined(layers):
    torch.manual_seed(0)
    made = create("resnet18", "random", layers=layers)
    plain = timm.create_model("resnet18").eval()
    plain.load_state_dict(made.model.state_dict(), strict=False)
    chosen = layers or (2, 3)
    multiple = 2 ** (max(chosen) + 1)
    assert made.config.layers == chosen
    assert made.multiple == multiple
    for rows, columns in ((4, 4), (2, 5), (1, 1)):
        x = image(2, 3, rows * multiple, columns * multiple)
        grid = made.grid(*x.shape[2:])
        assert grid == tuple(edge // 2 ** (min(chosen) + 1) for edge in x.shape[2:])
        features = made(x)
        assert features.shape == (2, grid[0] * grid[1], made.dim)
        levels = trunk_levels(plain, x)
        expected = joined([levels[layer] for layer in chosen], grid)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_change_stays_in_its_place(resnet):
    x = torch.full((1, 3, 256, 384), 0.5)
    spot = x.clone()
    spot[:, :, 68:76, 196:204] = 1
    change = (resnet(spot) - resnet(x)).abs().sum(dim=2).reshape(32, 48)
    row, column = divmod(int(change.argmax()), 48)
    assert abs(row - 8.5) <= 1.5
    assert abs(column - 24.5) <= 1.5
    assert change[:, 46:].max() == 0


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("mobilenetv3_small_100", 24 + 48),
        ("efficientnet_b0", 40 + 112),
        ("convnext_atto", 80 + 160),
    ],
)
def test_other_networks(name, dim):
    torch.manual_seed(0)
    made = create(name, "random")
    assert (made.patch_size, made.multiple, made.dim) == (8, 16, dim)
    features = made(image(2, 3, 48, 80))
    assert features.shape == (2, 6 * 10, dim)
    assert features.isfinite().all()
    torch.testing.assert_close(made(image(2, 3, 48, 80)[1:]), features[1:], rtol=1e-4, atol=1e-4)
    cfg = timm.get_pretrained_cfg(name)
    assert made.mean.flatten().tolist() == pytest.approx(cfg.mean)


def test_gradients_reach_the_image(resnet):
    x = image(1, 3, 32, 48).requires_grad_()
    resnet(x).square().sum().backward()
    assert x.grad.isfinite().all()
    # timm starts residual branches at zero, and strided shortcuts skip the last rows and columns
    assert (x.grad.abs().amax(dim=(0, 1))[:24, :40] > 0).all()


# Real weights


@torch.no_grad()
@pytest.mark.skipif(not TRUNK.is_file(), reason="no shared/weights beside the repository")
def test_a_trunk_of_real_weights():
    made = create("resnet18", TRUNK)
    plain = timm.create_model("resnet18").eval()
    missing, unexpected = plain.load_state_dict(load_file(TRUNK), strict=False)
    assert unexpected == []
    counters = {key for key in missing if key.endswith("num_batches_tracked")}
    assert {key.split(".")[0] for key in set(missing) - counters} == {"layer4", "fc"}
    x = image(1, 3, 224, 224)
    levels = trunk_levels(plain, x)
    assert [tuple(level.shape[1:]) for level in levels[2:4]] == [(128, 28, 28), (256, 14, 14)]
    features = made(x)
    torch.testing.assert_close(features, joined(levels[2:4], (28, 28)), rtol=1e-4, atol=1e-4)


# Errors


@pytest.mark.parametrize("layers", [(7, 8), (5,), (0, 9)])
def test_levels_the_network_lacks(layers):
    with pytest.raises(
        InputError, match=r"^layers: backbone 'resnet18' has no feature levels \(\d, ?\d?\): "
    ):
        create("resnet18", "random", layers=layers)


@pytest.mark.parametrize("layers", [(), (2, 2)])
def test_levels_that_are_none_or_the_same(layers):
    with pytest.raises(
        InputError, match=r"^layers: expected one or more distinct feature levels, got \("
    ):
        create("resnet18", "random", layers=layers)


def test_a_network_of_another_layout():
    with pytest.raises(
        InputError, match=r"^backbone 'swin_tiny_patch4_window7_224': expected a CNN, got feature"
    ):
        create("swin_tiny_patch4_window7_224", "random", layers=(1,))


def test_sizes_and_shapes(resnet):
    with pytest.raises(InputError, match=r"multiples of 16 pixels, got 32 x 24; `prepare`"):
        resnet(torch.zeros(1, 3, 32, 24))
    with pytest.raises(InputError, match=r"\(B, 3, H, W\), got \(1, 1, 32, 32\) of torch.float32$"):
        resnet(torch.zeros(1, 1, 32, 32))
