import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from robustad.pseudo.placement import DRAWS_A_TRY, TRIES, dilate, integral, place


def numbers(batch, seed=0):
    return torch.rand(batch, TRIES, DRAWS_A_TRY, generator=torch.Generator().manual_seed(seed))


def masks(seed, batch=4, shape=(40, 50)):
    rng = np.random.default_rng(seed)
    out = np.zeros((batch, *shape), bool)
    for one in out:
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(0, shape[0] - 3), rng.integers(0, shape[1] - 3)
            one[y : y + rng.integers(1, 30), x : x + rng.integers(1, 30)] = True
    return torch.from_numpy(out)


def test_integral_counts_pixels():
    mask = masks(0)
    expected = np.pad(mask.numpy().astype(int).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    np.testing.assert_array_equal(integral(mask).numpy(), expected)


@pytest.mark.parametrize("radius", [0, 1, 5, 30])
def test_dilation_is_scipys(radius):
    mask = masks(1)
    expected = [binary_dilation(one, np.ones((2 * radius + 1,) * 2)) for one in mask.numpy()]
    np.testing.assert_array_equal(dilate(mask, radius).numpy(), np.stack(expected))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(0, 20))
def test_boxes_lie_in_the_foreground_where_any_least_box_does(seed, low, more):
    mask = masks(seed)
    boxes = place(mask, low, low + more, numbers(4, seed))
    windows = np.lib.stride_tricks.sliding_window_view(mask.numpy(), (low, low), axis=(1, 2))
    for i in range(4):
        h, w = int(boxes.height[i]), int(boxes.width[i])
        assert low <= h <= low + more
        assert low <= w <= low + more
        fits = windows[i].all(axis=(2, 3)).any()
        for y, x in ((boxes.source_y, boxes.source_x), (boxes.target_y, boxes.target_x)):
            inside = mask[i, y[i] : y[i] + h, x[i] : x[i] + w]
            assert inside.shape == (h, w)  # never over the image's edge
            assert inside.all() if fits else inside.any()
        if not fits:
            assert h == w == low


def test_boxes_differ_and_reach_everywhere():
    mask = torch.ones(1, 40, 50, dtype=torch.bool).expand(400, -1, -1)
    boxes = place(mask, 5, 12, numbers(400))
    moved = (boxes.source_y != boxes.target_y) | (boxes.source_x != boxes.target_x)
    assert moved.all()
    covered = torch.zeros(40, 50, dtype=torch.bool)
    for y, x, h, w in zip(boxes.target_y, boxes.target_x, boxes.height, boxes.width, strict=True):
        covered[y : y + h, x : x + w] = True
    assert covered.float().mean() > 0.98
    assert set(boxes.height.tolist()) == set(range(5, 13))


def test_numbers_just_below_one_stay_in_range():
    mask = torch.ones(1, 30, 30, dtype=torch.bool)
    boxes = place(mask, 4, 9, torch.full((1, TRIES, DRAWS_A_TRY), 1 - 2**-24))
    # Both corners are the last possible one, which only a least box reaches.
    assert [int(value) for value in boxes] == [4, 4, 26, 26, 26, 26]
