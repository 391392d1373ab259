import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from robustad.errors import InputError
from robustad.metrics import ece_adaptive, ece_positive, reliability_curve, wilson_interval


def sample(seed=0, size=500):
    rng = np.random.default_rng(seed)
    p = rng.beta(0.6, 0.8, size)
    return p, (rng.random(size) < p**1.5).astype(int)


@pytest.mark.parametrize("bins", [2, 10])
def test_reliability_curve_matches_scikit_learn(bins):
    p, labels = sample()
    p = np.append(p, [0.0, 0.1, 0.5, 1.0])  # on the edges
    labels = np.append(labels, [0, 1, 1, 1])
    curve = reliability_curve(p, labels, bins)
    fraction, predicted = calibration_curve(labels, p, n_bins=bins)
    filled = curve.count > 0
    np.testing.assert_allclose(curve.fraction_positive[filled], fraction)
    np.testing.assert_allclose(curve.mean_predicted[filled], predicted)
    assert curve.count.sum() == p.size


def test_reliability_curve_keeps_empty_bins():
    curve = reliability_curve([0.05, 0.95], [0, 1], bins=4)
    assert curve.bin_centre.tolist() == [0.125, 0.375, 0.625, 0.875]
    assert curve.count.tolist() == [1, 0, 0, 1]
    np.testing.assert_array_equal(curve.mean_predicted, [0.05, np.nan, np.nan, 0.95])
    np.testing.assert_array_equal(curve.fraction_positive, [0, np.nan, np.nan, 1])


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=60),
    st.integers(1, 12),
)
def test_reliability_curve_accounts_for_ece_positive(pairs, bins):
    p, labels = map(np.array, zip(*pairs, strict=True))
    curve = reliability_curve(p, labels, bins)
    gap = np.nan_to_num(np.abs(curve.fraction_positive - curve.mean_predicted))
    error = (gap * curve.count).sum() / p.size
    assert ece_positive(p, labels, bins=bins) == pytest.approx(error, abs=1e-12)
    assert 0 <= error <= 1


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_intervals_match_scipy(level):
    p, labels = sample(1, 60)
    curve = reliability_curve(p, labels, level=level)
    for share, count, low, high in zip(
        curve.fraction_positive, curve.count, curve.low, curve.high, strict=True
    ):
        if count:
            expected = binomtest(round(share * count), int(count)).proportion_ci(level, "wilson")
            assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        else:
            assert np.isnan([low, high]).all()


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 7), (499, 1000)])
def test_wilson_matches_scipy_at_the_ends_too(k, n):
    expected = binomtest(k, n).proportion_ci(0.95, "wilson")
    found = wilson_interval(k, n)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low < found.high <= 1
    assert (found.low == 0) == (k == 0)
    assert (found.high == 1) == (k == n)


def test_equal_mass_bins():
    p, labels = sample()
    curve = reliability_curve(p, labels, binning="mass")
    assert curve.count.sum() == p.size
    assert np.ptp(curve.count) <= 1
    assert (np.diff(curve.bin_centre) > 0).all()
    gap = np.abs(curve.fraction_positive - curve.mean_predicted)
    assert ece_adaptive(p, labels) == pytest.approx((gap * curve.count).sum() / p.size)
    crowd = reliability_curve([0.3] * 9 + [0.6], [0] * 10, bins=4, binning="mass")
    assert sorted(crowd.count.tolist()) == [0, 0, 1, 9]
    assert np.isnan(crowd.bin_centre).sum() == 2


def test_intervals_of_a_calibrated_detector_hold_its_probabilities():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        p = rng.random(200)
        curve = reliability_curve(p, rng.random(200) < p)
        inside += list((curve.low <= curve.mean_predicted) & (curve.mean_predicted <= curve.high))
    assert 0.94 < np.mean(inside) < 0.98


def test_bad_arguments():
    with pytest.raises(InputError, match="binning: expected width or mass, got 'area'"):
        reliability_curve([0.5], [1], binning="area")
    with pytest.raises(InputError, match=r"level: expected a number in \(0, 1\), got 1"):
        reliability_curve([0.5], [1], level=1)
    for k, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(InputError, match="expected 0 <= positive <= count > 0"):
            wilson_interval(k, n)
    with pytest.raises(InputError, match="positive and count: expected finite"):
        wilson_interval(float("nan"), 2)
