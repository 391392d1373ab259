import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss

from robustad.errors import InputError
from robustad.training.config import LossConfig
from robustad.training.loss import (
    image_loss,
    patch_contrast,
    patch_loss,
    patch_targets,
    term_weights,
)


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 12, generator=generator)
    target = torch.rand(5, 12, generator=generator) < 0.3
    target[0] = False  # a normal image
    target[1] = True  # nothing but anomaly
    return logits, target


@pytest.mark.parametrize("reduction", ["mean", "sum", "balanced"])
def test_patch_loss_against_scikit_learn(drawn, reduction):
    logits, target = drawn
    found = patch_loss(logits, target, reduction)
    for row in range(len(target)):
        truth, probability = target[row].numpy(), logits[row].double().sigmoid().numpy()
        weight = None
        if reduction == "balanced" and 0 < truth.sum() < truth.size:
            counts = [(~truth).sum(), truth.sum()]
            weight = [1 / counts[int(one)] for one in truth]
        expected = log_loss(
            truth,
            probability,
            labels=[False, True],
            sample_weight=weight,
            normalize=reduction != "sum",
        )
        assert found[row].item() == pytest.approx(expected, rel=1e-5)


def test_term_weights_make_each_term_the_mean_over_its_images():
    config = LossConfig(normal=1, anomalous=2, adversarial_normal=3, adversarial_anomalous=4)
    losses = torch.arange(12.0)
    weights = term_weights(config, 3, attacked=True, device=torch.device("cpu"))
    means = losses.reshape(4, 3).mean(dim=1)
    assert (weights * losses).sum() == means @ torch.tensor([1.0, 2.0, 3.0, 4.0])
    clean = term_weights(config, 3, attacked=False, device=torch.device("cpu"))
    torch.testing.assert_close(clean, weights[:6])


def test_any_pixel_makes_a_patch_anomalous():
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 3, 4] = True  # in the patch of row 0, column 1
    assert patch_targets(mask, (2, 2), 0.0).tolist() == [[False, True, False, False], [False] * 4]


@pytest.mark.parametrize(("pixels", "anomalous"), [(4, False), (5, True), (8, True)])
def test_a_share_of_pixels_makes_a_patch_anomalous(pixels, anomalous):
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask.view(-1)[:pixels] = True
    assert patch_targets(mask, (1, 1), 0.25).item() is anomalous  # more than a quarter of 16


def test_targets_of_a_pixel_wise_network_are_the_mask():
    mask = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(patch_targets(mask, (6, 6), 0.0), mask.flatten(1))


def test_a_grid_that_does_not_fit():
    with pytest.raises(InputError, match=r"multiples of \(3, 3\) patches, got 8 x 8"):
        patch_targets(torch.zeros(1, 8, 8, dtype=torch.bool), (3, 3), 0.0)


def test_the_gradient_of_a_confident_patch_is_small():
    logits = torch.tensor([[10.0, 0.0]], requires_grad=True)
    patch_loss(logits, torch.tensor([[True, True]]), "mean").sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (logits.sigmoid() - 1).detach() / 2)
    assert F.relu(logits.grad).sum() == 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "balanced"])
def test_unknown_patches_do_not_count(drawn, reduction):
    logits, target = drawn
    known = torch.ones_like(target)
    known[:, 8:] = False
    found = patch_loss(logits, target, reduction, known)
    torch.testing.assert_close(found, patch_loss(logits[:, :8], target[:, :8], reduction))
    assert patch_loss(logits, target, reduction, torch.zeros_like(target)).abs().max() == 0


def test_image_loss_is_the_cross_entropy_of_the_image_score(drawn):
    logits, target = drawn
    score = logits.topk(3, dim=1).values.mean(dim=1)
    for row in range(len(target)):
        expected = log_loss(
            [target[row].any().item()], [score[row].sigmoid().item()], labels=[False, True]
        )
        assert image_loss(logits, target, 3)[row].item() == pytest.approx(expected, rel=1e-5)


def test_contrast_is_over_the_pixels_that_differ():
    normal = torch.full((1, 3, 4, 4), 0.5)
    made = normal.clone()
    made[0, :, 0, 0] = 0.9  # one pixel of the first patch
    made[0, 0, 2:, 2:] = 0.8  # one channel of the last
    contrast = patch_contrast(made, normal, (2, 2))
    torch.testing.assert_close(contrast, torch.tensor([[0.4, 0.0, 0.0, 0.1]]))
