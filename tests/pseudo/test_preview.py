import numpy as np
import pytest
import torch

from robustad.errors import InputError
from robustad.pseudo import PseudoAnomalies, PseudoBatch
from robustad.pseudo.preview import GAP, LABEL_WIDTH, OUTLINE, outlined, preview_grid


def test_rows_are_the_images_their_anomalies_and_masks():
    images = torch.rand(3, 3, 40, 40)
    made = PseudoAnomalies(image_size=40)(images, None, range(3))
    picture = preview_grid(images, made)
    assert picture.shape == (3 * 44 + GAP, LABEL_WIDTH + 3 * 44 + GAP, 3)
    rows = (images, made.images, made.mask[:, None].expand(-1, 3, -1, -1))
    for r, row in enumerate(rows):
        for c in range(3):
            top, left = GAP + 44 * r, LABEL_WIDTH + GAP + 44 * c
            cell = picture[top : top + 40, left : left + 40] / 255
            np.testing.assert_allclose(cell, row[c].permute(1, 2, 0).float().numpy(), atol=0.003)
    assert picture[:, :LABEL_WIDTH].min() < 128  # the labels


def test_the_outline_is_the_masks_border():
    mask = torch.zeros(1, 10, 12, dtype=torch.bool)
    mask[0, 2:7, 0:5] = True
    out = outlined(torch.zeros(1, 3, 10, 12), mask)
    border = mask.clone()
    border[0, 3:6, 1:4] = False
    assert torch.equal(out[:, 1] == OUTLINE[1], border)


def test_nothing_to_show_is_refused():
    empty = torch.rand(0, 3, 8, 8)
    with pytest.raises(InputError, match="images: expected at least one, got none"):
        preview_grid(empty, PseudoBatch(empty, torch.zeros(0, 8, 8, dtype=torch.bool)))
