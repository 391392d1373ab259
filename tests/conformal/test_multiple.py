from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from robustad.conformal import (
    adjusted_p_values,
    benjamini_hochberg,
    p_values,
    storey_null_share,
)
from robustad.errors import InputError

batches = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def step_up(p, fdr):
    """Benjamini and Hochberg's own words: the largest k with p_(k) <= k fdr / m."""
    ordered = np.sort(p)
    limit = Fraction(fdr) * (1 + Fraction(1, 10**12))
    good = [
        k for k in range(1, len(p) + 1) if Fraction(ordered[k - 1]) <= limit * Fraction(k, len(p))
    ]
    return np.asarray(p) <= (ordered[max(good) - 1] if good else -1.0)


@settings(deadline=None)
@given(batches, st.sampled_from([0.01, 0.05, 0.1, 0.3]))
def test_the_step_up_procedure(p, fdr):
    np.testing.assert_array_equal(benjamini_hochberg(p, fdr), step_up(p, fdr))


@settings(deadline=None)
@given(batches)
def test_adjusted_values_are_scipys(p):
    np.testing.assert_allclose(adjusted_p_values(p), false_discovery_control(p), atol=1e-14)
    ours = adjusted_p_values(p, dependence="any")
    np.testing.assert_allclose(ours, false_discovery_control(p, method="by"), atol=1e-14)


@settings(deadline=None)
@given(batches, st.floats(0.1, 1.0))
def test_fewer_nulls_find_more(p, share):
    np.testing.assert_allclose(
        adjusted_p_values(p, null_share=share), false_discovery_control(p) * share, atol=1e-14
    )


def simulated(rng, *, n, normal, anomalous, shift, ties=False):
    """p-values of one batch by one calibration set, and which are anomalous."""
    labels = np.repeat([0, 1], [normal, anomalous])
    calibration, scores = rng.normal(size=n), rng.normal(size=labels.size) + shift * labels
    if ties:
        calibration, scores = calibration.round(1), scores.round(1)
    return p_values(scores, calibration), labels


@pytest.mark.parametrize("share", ["one", "storey"])
@pytest.mark.parametrize("ties", [False, True])
def test_false_discoveries_stay_below_the_bound(share, ties):
    rng = np.random.default_rng(0)
    false, power = [], []
    for _ in range(400):
        p, labels = simulated(rng, n=199, normal=40, anomalous=20, shift=3.0, ties=ties)
        nulls = 1.0 if share == "one" else storey_null_share(p)
        chosen = benjamini_hochberg(p, 0.2, null_share=nulls)
        false.append((chosen & (labels == 0)).sum() / max(1, chosen.sum()))
        power.append(chosen[labels == 1].mean())
    bound = 0.2 * (2 / 3 if share == "one" else 1)
    assert np.mean(false) <= bound + 3 * np.std(false) / np.sqrt(400)
    assert np.mean(power) > 0.8


def test_nothing_to_find_nothing_found():
    rng = np.random.default_rng(0)
    any_found = [
        benjamini_hochberg(simulated(rng, n=99, normal=30, anomalous=0, shift=0)[0], 0.1).any()
        for _ in range(400)
    ]
    assert np.mean(any_found) <= 0.1 + 3 * 0.3 / np.sqrt(400)


def test_a_rate_that_is_met_exactly_is_met():
    # p = 1/20 for two of four images: 0.05 * 4 / 2 is 0.1, not a digit more
    assert benjamini_hochberg([0.05, 0.05, 0.9, 1.0], 0.1).tolist() == [True, True, False, False]
    assert benjamini_hochberg([3 / 30] * 3, 0.1).all()


def test_storeys_estimate():
    assert storey_null_share(np.linspace(0.0, 1.0, 101)) == 1.0
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.random(4000), np.zeros(6000)])
    assert storey_null_share(p) == pytest.approx(0.4, abs=0.03)
    assert storey_null_share(p, above=0.8) == pytest.approx(0.4, abs=0.04)


@pytest.mark.parametrize(
    ("p", "options", "message"),
    [
        ([], {}, r"p_values: expected shape \(n,\) with n >= 1"),
        ([0.1, 1.2], {}, r"p_values: expected probabilities in \[0, 1\], got 1.2 at index 1"),
        ([np.nan], {}, "p_values: .* got nan"),
        ([0.1], {"fdr": 0.0}, r"fdr: expected a number in \(0, 1\), got 0.0"),
        ([0.1], {"fdr": 1.0}, r"fdr: expected a number in \(0, 1\), got 1.0"),
        ([0.1], {"null_share": 0.0}, r"null_share: expected a number in \(0, 1\], got 0.0"),
        ([0.1], {"dependence": "none"}, "dependence: expected 'positive' or 'any', got 'none'"),
    ],
)
def test_bad_input_is_named(p, options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        benjamini_hochberg(p, **{"fdr": 0.1, **options})


def test_a_bad_level_is_named():
    with pytest.raises(InputError, match=r"above: expected a number in \(0, 1\), got 1"):
        storey_null_share([0.1], above=1)
