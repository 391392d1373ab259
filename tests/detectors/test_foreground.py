import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.decomposition import PCA

from robustad.detectors.foreground import first_component, foreground_mask

GRID = (12, 15)


def tokens_of(field, dim=16, noise=0.05, seed=0):
    """Tokens whose first component is `field` (rows, columns), up to a sign and a little noise."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=dim)
    axis *= np.sign(axis[np.abs(axis).argmax()]) / np.linalg.norm(axis)
    tokens = np.asarray(field, float).reshape(-1, 1) * axis + noise * rng.normal(
        size=(np.size(field), dim)
    )
    return torch.from_numpy(tokens[None]).float()


def square(low, high, value=40.0, grid=GRID):
    field = np.zeros(grid)
    field[low[0] : high[0], low[1] : high[1]] = value
    return field


def scikit_learn(tokens):
    return PCA(n_components=1, svd_solver="full").fit_transform(tokens.double().numpy())[:, 0]


def up_to_sign(ours, theirs):
    return min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max()) / np.abs(theirs).max()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("rows", "dim"), [(64, 16), (20, 48), (180, 7)])
def test_first_component_matches_scikit_learn(seed, rows, dim):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(3, rows, dim, generator=generator) * torch.linspace(3, 0.5, dim) + 1.0
    ours = first_component(tokens)
    assert ours.shape == (3, rows)
    for one, batch in zip(ours.numpy(), tokens, strict=True):
        values = np.linalg.svd((batch - batch.mean(0)).double().numpy(), compute_uv=False) ** 2
        # what a second component of `ratio` the variance leaves after 1024 multiplications
        ratio = values[1] / values[0]
        if ratio < 0.99:
            assert up_to_sign(one, scikit_learn(batch)) < 10 * ratio**1024 + 2e-3


@pytest.mark.parametrize("ratio", [0.9, 0.98, 0.99])
def test_first_component_of_near_degenerate_spectra(ratio):
    rng = np.random.default_rng(0)
    rows, dim = 200, 10
    left = np.linalg.qr(rng.normal(size=(rows, dim)) - 0)[0]
    left = np.linalg.qr(left - left.mean(0))[0]
    right = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    variances = np.array([1.0, ratio, *([0.1] * (dim - 2))])
    tokens = torch.from_numpy((left * np.sqrt(variances)) @ right.T * 50).float()
    ours = first_component(tokens[None])[0].numpy()
    assert up_to_sign(ours, scikit_learn(tokens)) < 0.01


def test_equal_first_two_components_give_one_of_their_mixtures():
    angle = torch.linspace(0, 2 * torch.pi, 101)[:100]
    tokens = torch.stack([angle.cos(), angle.sin(), torch.zeros(100)], dim=1)[None]
    ours = first_component(tokens)[0]
    assert float(ours.square().sum()) == pytest.approx(50.0, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_first_component_scales_with_its_tokens(scale):
    tokens = tokens_of(square((3, 4), (9, 11)))
    ours = first_component(tokens * scale) / scale
    assert torch.allclose(ours, first_component(tokens), atol=1e-3)


def test_constant_tokens_have_no_component():
    assert torch.equal(first_component(torch.ones(2, 9, 4)), torch.zeros(2, 9))


def test_the_sign_makes_the_largest_coefficient_positive():
    tokens = tokens_of(square((3, 4), (9, 11)))
    component = first_component(tokens)
    centred = tokens[0] - tokens[0].mean(0)
    axis = centred.T @ component[0]
    assert float(axis[axis.abs().argmax()]) > 0
    # the axis is a line: turning all tokens around turns their coordinates, not the axis
    assert torch.allclose(first_component(-tokens), -component, atol=1e-3)


def by_scipy(mask):
    eight = np.ones((3, 3), bool)
    dilated = ndimage.binary_dilation(mask, eight)
    closed = ndimage.binary_dilation(dilated, eight)
    return ndimage.binary_erosion(closed, eight, border_value=1)


def test_a_bright_object_is_found_dilated():
    field = square((3, 4), (9, 11), 60.0)
    mask = foreground_mask(tokens_of(field), GRID)
    assert mask.dtype == torch.bool
    assert mask.shape == (1, 180)
    assert np.array_equal(mask[0].reshape(GRID).numpy(), by_scipy(field > 0))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.4, 0.9))
def test_morphology_matches_scipy(seed, share):
    rng = np.random.default_rng(seed)
    raw = rng.random(GRID) < share
    raw[2:10, 3:12] |= rng.random((8, 9)) < 0.5
    field = np.where(raw, 50.0, -50.0)
    tokens = tokens_of(field, noise=0.0)
    component = first_component(tokens)[0].reshape(GRID).numpy()
    positive, negative = component > 10, component < -10
    flip = positive[2:10, 3:12].mean() <= 0.35
    expected = by_scipy(negative if flip else positive)
    if not expected.any():
        expected = np.ones(GRID, bool)
    assert np.array_equal(foreground_mask(tokens, GRID)[0].reshape(GRID).numpy(), expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_is_flipped_where_the_centre_is_bare(sign):
    """An object in the centre is found whichever way its component points."""
    field = square((3, 3), (9, 12), 60.0) * sign
    mask = foreground_mask(tokens_of(field), GRID)[0].reshape(GRID).numpy()
    assert np.array_equal(mask, by_scipy(field != 0))


@pytest.mark.parametrize(("rows", "flips"), [(3, True), (4, False)])
def test_at_most_35_per_cent_of_the_centre_flips(rows, flips):
    """On 10 x 10 the central 60% is 6 x 6; two rows of it are 33%, three 50%."""
    grid = (10, 10)
    field = square((0, 0), (rows + 1, 10), 60.0, grid)
    tokens = tokens_of(field, noise=0.0)
    component = first_component(tokens)[0].reshape(grid).numpy()
    bright_is_positive = component[0, 0] > 0
    mask = foreground_mask(tokens, grid)[0].reshape(grid).numpy()
    share = (rows + 1 - 2) / 6 if bright_is_positive else 1 - (rows + 1 - 2) / 6
    bright = bright_is_positive == (share > 0.35)
    assert bright_is_positive
    assert bright != flips
    assert np.array_equal(mask, by_scipy(field > 0 if bright else field == 0))


def test_where_nothing_is_found_all_is_foreground():
    tokens = tokens_of(square((3, 3), (9, 12), 1.0), noise=0.001)
    assert foreground_mask(tokens, GRID).all()
    assert foreground_mask(torch.zeros(2, 180, 8), GRID).all()
    assert foreground_mask(torch.zeros(1, 180, 8), GRID, threshold=0.5, unit="std").all()


def test_images_of_a_batch_do_not_see_each_other():
    fields = [square((3, 3), (9, 12)), square((1, 1), (4, 5)), square((0, 0), (12, 8))]
    batch = torch.cat([tokens_of(field, seed=i) for i, field in enumerate(fields)])
    together = foreground_mask(batch, GRID)
    for one, tokens in zip(together, batch, strict=True):
        assert torch.equal(one, foreground_mask(tokens[None], GRID)[0])


def test_standard_deviations_do_not_depend_on_the_scale():
    tokens = tokens_of(square((3, 3), (9, 12)))
    masks = [foreground_mask(tokens * s, GRID, threshold=0.5, unit="std") for s in (0.01, 1, 50)]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    assert 0 < int(masks[0].sum()) < 180
    deviation = float(first_component(tokens).square().mean().sqrt())
    assert torch.equal(masks[1], foreground_mask(tokens, GRID, threshold=0.5 * deviation))


def test_the_mask_carries_no_gradient():
    tokens = tokens_of(square((3, 3), (9, 12))).requires_grad_(True)
    assert not foreground_mask(tokens, GRID).requires_grad
