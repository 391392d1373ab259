import numpy as np
import pytest
import torch

from robustad.attacks import Scores, patch_mask
from robustad.attacks.objectives import bce, flip, image, resolve
from robustad.errors import InputError


def scores(mask=None):
    patch = torch.tensor([[1.0, 2.0, 6.0], [3.0, 5.0, 7.0], [0.0, 4.0, 2.0]])
    return Scores(
        patch=patch,
        image=torch.tensor([10.0, 20.0, 30.0]),
        label=torch.tensor([0, 1, 1]),
        mask=mask,
    )


def test_image_raises_normal_and_lowers_anomalous_scores():
    assert image(scores()).tolist() == [10.0, -20.0, -30.0]


def test_flip_is_normal_minus_anomalous_patches():
    mask = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 1, 1]]).bool()
    assert flip(scores(mask)).tolist() == [3.0, -5.0, -3.0]
    with pytest.raises(InputError, match="mask: this objective needs the ground-truth masks"):
        flip(scores())


def test_bce_is_the_mean_cross_entropy_of_patch_logits():
    mask = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 1, 1]]).bool()
    found = scores(mask)
    probability = 1 / (1 + np.exp(-found.patch.double().numpy()))
    expected = -np.log(np.where(mask.numpy(), probability, 1 - probability)).mean(axis=1)
    assert np.allclose(bce(found).numpy(), expected, atol=1e-6)
    with pytest.raises(InputError, match="mask: this objective needs the ground-truth masks"):
        bce(scores())


def test_resolve():
    assert resolve("flip") is flip
    assert resolve(image) is image
    with pytest.raises(
        InputError, match=r"objective: expected one of \['bce', 'flip', 'image', .*\], got"
    ):
        resolve("carlini")


@pytest.mark.parametrize("grid", [(4, 4), (2, 8), (1, 1), (16, 24)])
def test_a_patch_is_anomalous_where_any_pixel_is(grid):
    mask = np.random.default_rng(0).random((5, 16, 24)) < 0.02
    rows, columns = grid
    tiles = mask.reshape(5, rows, 16 // rows, columns, 24 // columns)
    expected = tiles.any(axis=(2, 4)).reshape(5, -1)
    found = patch_mask(torch.from_numpy(mask), grid)
    assert found.dtype == torch.bool
    assert np.array_equal(found.numpy(), expected)


def test_patch_mask_takes_batches_only():
    with pytest.raises(InputError, match=r"mask: expected pixel masks \(B, H, W\), got \(16, 24\)"):
        patch_mask(torch.zeros(16, 24).bool(), (2, 2))
