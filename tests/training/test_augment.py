"""Augmentation of normal images."""

import pytest
import torch

from robustad.training.augment import augmented
from robustad.training.config import AugmentationConfig


def images(count=6, size=8):
    x = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))
    return 0.3 + 0.4 * x, x[:, 0] > 0.5


def test_nothing_is_changed_by_default():
    x, foreground = images()
    found = augmented(x, foreground, AugmentationConfig(), seeds=range(6))
    assert found[0] is x
    assert found[1] is foreground


def test_brightness_moves_the_mean_within_its_range_and_nothing_else():
    x, foreground = images(200)
    changed, same = augmented(x, foreground, AugmentationConfig(brightness=0.2), seeds=range(200))
    shift = (changed - x).mean(dim=(1, 2, 3))
    assert torch.allclose(changed, x + shift.view(-1, 1, 1, 1), atol=1e-6)
    assert shift.abs().max() <= 0.2 + 1e-6
    assert shift.min() < -0.15
    assert shift.max() > 0.15
    assert same.equal(foreground)


def test_contrast_keeps_the_mean():
    x, foreground = images(50)
    changed, _ = augmented(x, foreground, AugmentationConfig(contrast=0.3), seeds=range(50))
    assert torch.allclose(changed.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)), atol=1e-6)
    ratio = changed.flatten(1).std(dim=1) / x.flatten(1).std(dim=1)
    assert ratio.min() >= 0.7 - 1e-5
    assert ratio.max() <= 1.3 + 1e-5
    assert ratio.std() > 0.1


@pytest.mark.parametrize(("options", "views"), [({"flip": True}, 4), ({"quarter_turns": True}, 4)])
def test_foregrounds_turn_with_their_images(options, views):
    x, _ = images(1)
    x = x.expand(100, -1, -1, -1)
    changed, turned = augmented(x, x[:, 0] > 0.5, AugmentationConfig(**options), seeds=range(100))
    assert turned.equal(changed[:, 0] > 0.5)
    assert len({tuple(one.flatten().tolist()) for one in changed}) == views
    assert torch.allclose(changed.sum(dim=(1, 2, 3)), x.sum(dim=(1, 2, 3)), atol=1e-3)


def test_an_image_s_draw_is_its_seed_s_alone():
    x, foreground = images()
    config = AugmentationConfig(brightness=0.2, contrast=0.2, flip=True, quarter_turns=True)
    together, masks = augmented(x, foreground, config, seeds=range(6))
    for i in range(6):
        alone, mask = augmented(x[i : i + 1], foreground[i : i + 1], config, seeds=[i])
        assert alone[0].equal(together[i])
        assert mask[0].equal(masks[i])
    assert (together >= 0).all()
    assert (together <= 1).all()
