import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, betabinom, binom

from robustad.conformal import smallest_n, threshold_for_fnr, threshold_for_fpr
from robustad.conformal.thresholds import allowed_errors
from robustad.errors import InputError
from robustad.metrics import threshold_at_fpr

rates = st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.29, 0.3, 0.5, 0.7])
SCORES = np.linspace(0.0, 1.0, 40)


def by_hand(scores, fpr):
    """The ceil((n + 1)(1 - fpr))-th smallest score, in whole numbers."""
    n, percent = len(scores), round(100 * fpr)
    rank = -(-(n + 1) * (100 - percent) // 100)
    return np.inf if rank > n else np.sort(scores)[rank - 1]


@settings(deadline=None)
@given(st.integers(1, 400), rates)
def test_the_order_statistic_of_the_textbook(n, fpr):
    scores = np.random.default_rng(n).permutation(n) / 7.0
    found = threshold_for_fpr(scores, fpr, if_too_few="infinite") if n > 1 else None
    if found is not None:
        assert found.value == np.nextafter(by_hand(scores, fpr), np.inf)
        assert (scores >= found.value).sum() == max(found.allowed, 0)
        assert found.expected_rate <= fpr + 1e-12
        mirrored = threshold_for_fnr(-scores, fpr, if_too_few="infinite")
        assert mirrored.value == -by_hand(scores, fpr)
        assert (-scores < mirrored.value).sum() == max(mirrored.allowed, 0)


@pytest.mark.parametrize("fpr", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [30, 97, 500, 4000])
def test_the_confident_form_is_the_last_whose_beta_quantile_fits(n, fpr, confidence):
    fits = [k for k in range(n) if beta.ppf(confidence, k + 1, n - k) <= fpr]
    assert allowed_errors(n, fpr, confidence) == (max(fits) if fits else -1)


def test_the_confident_form_keeps_its_confidence_in_a_simulation():
    rng = np.random.default_rng(0)
    found = [threshold_for_fpr(rng.random(200), 0.1, confidence=0.9).value for _ in range(3000)]
    kept = np.mean([1.0 - value <= 0.1 for value in found])  # scores are uniform: the FPR is known
    exact = 1.0 - binom.cdf(allowed_errors(200, 0.1, 0.9), 200, 0.1)
    assert exact >= 0.9
    assert abs(kept - exact) < 4 * math.sqrt(exact * (1 - exact) / 3000)


def test_the_expected_rate_is_met_on_average():
    rng = np.random.default_rng(1)
    for n, fpr in ((20, 0.05), (33, 0.1), (100, 0.2)):
        found = threshold_for_fpr(rng.random(n), fpr)
        rate = np.mean([1 - threshold_for_fpr(rng.random(n), fpr).value for _ in range(3000)])
        assert rate == pytest.approx(found.expected_rate, abs=4 * 0.06 / math.sqrt(3000))
        assert found.expected_rate <= fpr


def test_the_interval_is_that_of_the_beta_distribution():
    found = threshold_for_fpr(SCORES, 0.1)
    assert found.rate_interval(0.8) == pytest.approx(beta.ppf([0.1, 0.9], 4, 37))
    assert threshold_for_fpr(SCORES, 0.01, if_too_few="infinite").rate_interval() == (0.0, 0.0)
    # what a test set of 100 would show: the alarms follow a beta-binomial distribution
    assert betabinom.mean(100, found.allowed + 1, found.n - found.allowed) == pytest.approx(
        100 * found.expected_rate
    )


def test_ties_cost_nothing_but_sharpness():
    scores = np.repeat([0.1, 0.2, 0.3], 10)
    found = threshold_for_fpr(scores, 0.4)
    assert found.value == np.nextafter(0.2, 1.0)
    assert (scores >= found.value).sum() == 10 <= found.allowed == 11


def test_thresholds_keep_the_precision_of_the_scores():
    scores = np.float32([0.1, 0.2, 0.3, 0.4])
    found = threshold_for_fpr(scores, 0.4)
    assert np.float32(found.value) == np.nextafter(np.float32(0.3), np.float32(1))
    assert not np.float32(0.3) >= np.float32(found.value)


def test_it_is_the_empirical_threshold_of_a_little_less():
    for fpr in (0.1, 0.25):
        allowed = threshold_for_fpr(SCORES, fpr).allowed
        assert threshold_for_fpr(SCORES, fpr).value == threshold_at_fpr(SCORES, allowed / 40)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("confidence", [None, 0.5, 0.9, 0.95, 0.999])
def test_the_smallest_n_is_the_smallest(rate, confidence):
    n = smallest_n(rate, confidence)
    assert allowed_errors(n, rate, confidence) >= 0
    assert n == 1 or allowed_errors(n - 1, rate, confidence) < 0


def test_too_few_images():
    with pytest.raises(
        InputError,
        match=r"^fpr: 0.01 cannot be promised from 40 held-out images, it takes at least 99$",
    ):
        threshold_for_fpr(SCORES, 0.01)
    with pytest.raises(InputError, match=r"fpr: 0.05 with confidence 0.95 .* 40 .* at least 59$"):
        threshold_for_fpr(SCORES, 0.05, confidence=0.95)
    with pytest.raises(InputError, match=r"^fnr: 0.02 cannot .* at least 49$"):
        threshold_for_fnr(SCORES, 0.02)
    none = threshold_for_fpr(SCORES, 0.01, if_too_few="infinite")
    assert (none.value, none.allowed, none.expected_rate) == (math.inf, -1, 0.0)
    assert none.to_dict()["value"] is None
    assert threshold_for_fnr(SCORES, 0.02, if_too_few="infinite").value == -math.inf


def test_promises_in_words():
    assert "at most 10% of normal images are called anomalous, on average over 40" in (
        threshold_for_fpr(SCORES, 0.1).guarantee
    )
    assert "with 95% confidence in these 40" in (
        threshold_for_fpr(SCORES, 0.2, confidence=0.95).guarantee
    )
    assert "5% of anomalous images are missed" in threshold_for_fnr(SCORES, 0.05).guarantee
    assert threshold_for_fpr(SCORES, 0.1).to_dict()["error"] == "fpr"
    few = threshold_for_fpr(SCORES, 0.01, if_too_few="infinite").guarantee
    assert few.startswith("nothing is called anomalous: 40 held-out images are too few")
    few = threshold_for_fnr(SCORES, 0.01, if_too_few="infinite").guarantee
    assert few.startswith("everything is called anomalous")


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([], {}, "normal_scores: expected scores of held-out normal images, got none"),
        ([0.1, math.nan], {}, "normal_scores: expected finite values, got nan at index 1"),
        ([0.1, math.inf], {}, "normal_scores: expected finite values, got inf"),
        ([0.5] * 30, {}, "normal_scores: expected different values, got 0.5 30 times"),
        (SCORES, {"fpr": 0.0}, r"fpr: expected a number in \(0, 1\), got 0.0"),
        (SCORES, {"fpr": 1.0}, r"fpr: expected a number in \(0, 1\), got 1.0"),
        (SCORES, {"fpr": math.nan}, r"fpr: expected a number in \(0, 1\), got nan"),
        (SCORES, {"confidence": 1.0}, r"confidence: expected a number in \(0, 1\), got 1.0"),
        (SCORES, {"if_too_few": "hope"}, "if_too_few: expected 'raise' or 'infinite', got 'hope'"),
    ],
)
def test_bad_input_is_named(scores, options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        threshold_for_fpr(scores, **{"fpr": 0.1, **options})


def test_bad_anomalous_scores_are_named():
    with pytest.raises(InputError, match="anomalous_scores: expected scores of held-out anomalous"):
        threshold_for_fnr([], 0.1)
    with pytest.raises(InputError, match=r"fnr: expected a number in \(0, 1\), got 1"):
        threshold_for_fnr(SCORES, 1)
    with pytest.raises(InputError, match=r"level: expected a number in \(0, 1\), got 0"):
        threshold_for_fpr(SCORES, 0.1).rate_interval(0)
    with pytest.raises(InputError, match=r"rate: expected a number in \(0, 1\), got 0"):
        smallest_n(0)
