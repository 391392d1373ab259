import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.errors import InputError
from robustad.metrics import brier, brier_parts


def by_hand(p, labels, bins):
    """Sums over equal-width bins (a, b], one by one."""
    n, base = p.size, labels.mean()
    reliability = resolution = variance = covariance = 0.0
    for k in range(bins):
        inside = (p <= (k + 1) / bins) & ((p > k / bins) | (k == 0))
        if inside.any():
            q, y = p[inside], labels[inside]
            reliability += inside.sum() / n * (q.mean() - y.mean()) ** 2
            resolution += inside.sum() / n * (y.mean() - base) ** 2
            variance += np.square(q - q.mean()).sum() / n
            covariance += 2 * ((q - q.mean()) * (y - y.mean())).sum() / n
    return reliability, resolution, base * (1 - base), variance, covariance


@pytest.mark.parametrize("bins", [1, 4, 10, 32])
@pytest.mark.parametrize("seed", range(3))
def test_parts_by_hand(seed, bins):
    rng = np.random.default_rng(seed)
    p = rng.beta(0.5, 0.8, 300)
    labels = (rng.random(300) < p).astype(float)
    assert tuple(brier_parts(p, labels, bins=bins)) == pytest.approx(by_hand(p, labels, bins))


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=60),
    st.integers(1, 12),
    st.sampled_from(["width", "mass"]),
)
def test_the_sum_is_exact(pairs, bins, binning):
    p, labels = map(np.array, zip(*pairs, strict=True))
    parts = brier_parts(p, labels, bins=bins, binning=binning)
    assert parts.total == pytest.approx(brier(p, labels), abs=1e-12)
    assert min(parts[:4]) >= 0
    assert parts.uncertainty <= 0.25


def test_forecasts_of_few_values_have_no_part_within_bins():
    # Murphy's own case: then the three classical terms are all there is.
    p = np.repeat([0.05, 0.35, 0.75], [20, 10, 10])
    labels = np.concatenate([np.arange(20) < 1, np.arange(10) < 4, np.arange(10) < 9])
    parts = brier_parts(p, labels)
    assert parts.within_variance == pytest.approx(0, abs=1e-15)
    assert parts.within_covariance == pytest.approx(0, abs=1e-15)
    assert parts.reliability == pytest.approx((0 + 10 * 0.05**2 + 10 * 0.15**2) / 40)


def test_what_a_constant_gets():
    labels = np.repeat([0, 1], [30, 10])
    parts = brier_parts(np.full(40, 0.25), labels)
    assert parts == pytest.approx((0, 0, 0.1875, 0, 0))


def test_bad_binning_is_named():
    with pytest.raises(InputError, match="binning: expected width or mass, got 3"):
        brier_parts([0.5], [1], binning=3)
