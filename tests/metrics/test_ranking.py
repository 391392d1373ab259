import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from robustad.errors import InputError
from robustad.metrics import (
    auroc,
    average_precision,
    f1_max,
    gmean_max,
    rates_at,
    threshold_at_fpr,
    trivial_f1,
)

MEASURES = [auroc, average_precision, f1_max, gmean_max]


@st.composite
def scored(draw):
    """Scores with many ties, and labels with both classes."""
    size = draw(st.integers(2, 40))
    value = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
    scores = draw(st.lists(value, min_size=size, max_size=size))
    labels = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    labels[0], labels[-1] = 0, 1
    return np.array(scores), np.array(labels)


def brute(scores, labels, measure):
    values = [measure(scores >= t, labels == 1) for t in np.unique(scores)]
    return max(values)


def f1(called, truth):
    return 2 * (called & truth).sum() / (called.sum() + truth.sum())


def gmean(called, truth):
    return np.sqrt(called[truth].mean() * (~called[~truth]).mean())


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(scored())
def test_values_match_brute_force(data):
    scores, labels = data
    positive, negative = scores[labels == 1][:, None], scores[labels == 0][None]
    pairs = (positive > negative) + 0.5 * (positive == negative)
    assert auroc(scores, labels) == pytest.approx(pairs.mean(), abs=1e-12)
    best = f1_max(scores, labels).value, gmean_max(scores, labels).value
    assert best == pytest.approx((brute(scores, labels, f1), brute(scores, labels, gmean)))


@settings(deadline=None, max_examples=50)
@given(scored())
def test_thresholds_attain_their_value(data):
    scores, labels = data
    best = f1_max(scores, labels)
    assert f1(scores >= best.threshold, labels == 1) == pytest.approx(best.value)
    best = gmean_max(scores, labels)
    fpr, fnr = rates_at(scores, labels, best.threshold)
    assert np.sqrt((1 - fpr) * (1 - fnr)) == pytest.approx(best.value)


@settings(deadline=None, max_examples=50)
@given(scored())
def test_f1_max_is_never_below_the_trivial_one(data):
    scores, labels = data
    assert f1_max(scores, labels).value >= trivial_f1(labels.mean()) - 1e-12


def test_average_precision_and_auroc_match_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    scores = rng.normal(labels, 1.0).round(1)
    assert auroc(scores, labels) == roc_auc_score(labels, scores)
    assert average_precision(scores, labels) == average_precision_score(labels, scores)


def test_the_highest_of_equally_good_thresholds_is_given():
    # TPR * TNR is 1/2 at 4 (TPR 1/2, TNR 1) and at 2 (TPR 1, TNR 1/2).
    assert gmean_max([1, 2, 3, 4], [0, 1, 0, 1]).threshold == 4.0


def test_constant_scores_are_worthless_but_legal():
    scores, labels = [0.3] * 4, [0, 1, 1, 1]
    assert auroc(scores, labels) == 0.5
    assert average_precision(scores, labels) == 0.75
    assert f1_max(scores, labels) == (trivial_f1(0.75), 0.3)
    assert gmean_max(scores, labels).value == 0.0


def test_published_floors():
    assert round(trivial_f1(1258 / 1725), 3) == 0.843  # MVTec AD's test images
    assert trivial_f1(0.0) == 0.0
    assert trivial_f1(1.0) == 1.0


def test_rates_at_counts_equal_scores_as_alarms():
    scores, labels = [0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]
    assert rates_at(scores, labels, 0.5) == (0.5, 0.0)
    assert rates_at(scores, labels, np.nextafter(0.5, 1)) == (0.0, 0.5)
    assert rates_at(scores, labels, np.inf) == (0.0, 1.0)
    assert rates_at(scores, labels, -np.inf) == (1.0, 0.0)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.one_of(st.integers(0, 3).map(float), st.floats(-1e30, 1e30)), min_size=1),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([np.float32, np.float64]),
)
def test_threshold_at_fpr_is_the_smallest_that_keeps_the_rate(values, fpr, dtype):
    normal = np.array(values, dtype)
    threshold = dtype(threshold_at_fpr(normal, fpr))
    assert (normal >= threshold).mean() <= fpr
    assert (normal >= np.nextafter(threshold, dtype(-np.inf))).mean() > fpr


@pytest.mark.parametrize("count", [1, 7, 20, 100, 1000])
def test_threshold_at_fpr_uses_up_the_allowance_at_every_fraction(count):
    normal = np.arange(count, dtype=np.float64)
    for alarms in range(count):
        threshold = threshold_at_fpr(normal, alarms / count)
        assert (normal >= threshold).sum() == alarms


def test_threshold_at_fpr_holds_for_new_images_as_documented():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(4000, 21))
    alarms = [new[-1] >= threshold_at_fpr(new[:-1], 0.05) for new in normal]
    assert np.mean(alarms) == pytest.approx(2 / 21, abs=0.02)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [0, 1, 1], "scores and labels: expected equal lengths, got 2 and 3"),
        ([0.1, np.nan, np.inf], [0, 1, 1], r"scores: .*got nan at index 1 \(2 of 3 are not"),
        ([0.1, 0.2, -np.inf], [0, 1, 1], "got -inf at index 2"),
        ([0.1, 0.2], [0, 2], "labels: expected 0 .normal. or 1 .anomalous., got 2 at index 1"),
        ([0.1, 0.2], [0, np.nan], "labels: .* got nan at index 1"),
        ([0.1, 0.2], [1, 1], "labels: expected both .* got only 1 .anomalous., 2 times"),
        ([0.1, 0.2], [False, False], "got only 0 .normal., 2 times"),
        ([], [], r"scores: expected shape \(n,\) with n >= 1, got \(0,\)"),
        ([[0.1], [0.2]], [0, 1], r"scores: expected shape .* got \(2, 1\)"),
        ([[0.1], [0.2, 0.3]], [0, 1], r"scores: expected shape \(n,\): "),
        (["a", "b"], [0, 1], "scores: expected numbers, got an array of <U1"),
    ],
)
def test_bad_arguments_are_named(measure, scores, labels, message):
    with pytest.raises(InputError, match=message):
        measure(scores, labels)


def test_bad_thresholds_and_shares_are_named():
    with pytest.raises(InputError, match="threshold: expected finite values, got nan"):
        rates_at([0.1, 0.2], [0, 1], np.nan)
    with pytest.raises(InputError, match=r"fpr: expected a number in \[0, 1\), got 1"):
        threshold_at_fpr([0.1], 1)
    with pytest.raises(InputError, match=r"normal_scores: .* got nan at index 1"):
        threshold_at_fpr([0.1, np.nan], 0.1)
    with pytest.raises(InputError, match=r"prevalence: expected a number in \[0, 1\], got 1.1"):
        trivial_f1(1.1)
