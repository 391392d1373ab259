import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from robustad.errors import InputError
from robustad.metrics import (
    brier,
    ece_positive,
    ece_top_label,
    mean_entropy,
    nll,
    reliability_curve,
)


def sample(seed=0, size=500):
    rng = np.random.default_rng(seed)
    p = rng.beta(0.6, 0.8, size)
    return p, (rng.random(size) < p**1.5).astype(int)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_errors_match_torchmetrics(seed, bins):
    p, labels = sample(seed)
    # The binary function of torchmetrics bins the positive class; with both classes spelled
    # out, the multiclass one bins the top label.
    positive = binary_calibration_error(torch.tensor(p), torch.tensor(labels), n_bins=bins)
    assert ece_positive(p, labels, bins=bins) == pytest.approx(positive.item(), abs=1e-9)
    both = torch.tensor(np.stack([1 - p, p], axis=1))
    top = multiclass_calibration_error(both, torch.tensor(labels), num_classes=2, n_bins=bins)
    assert ece_top_label(p, labels, bins=bins) == pytest.approx(top.item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_proper_scores_match_scikit_learn(seed):
    p, labels = sample(seed)
    assert nll(p, labels) == pytest.approx(log_loss(labels, p), rel=1e-12)
    assert brier(p, labels) == pytest.approx(brier_score_loss(labels, p), rel=1e-12)


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


def test_the_two_calibration_errors_differ_where_they_should():
    # Half the images anomalous, always p = 0.5: right about the rate, and about being unsure.
    assert ece_positive([0.5] * 4, [0, 1, 0, 1]) == 0.0
    assert ece_top_label([0.5] * 4, [0, 1, 0, 1]) == 0.0
    # 0.3 and 0.7 are one confidence but two probabilities.
    assert ece_positive([0.3, 0.7], [0, 1]) == pytest.approx(0.3)
    assert ece_top_label([0.3, 0.7], [0, 0]) == pytest.approx(0.2)
    assert ece_positive([0.3, 0.7], [0, 0]) == pytest.approx(0.5)


def test_perfect_and_hopeless():
    assert nll([0.0, 1.0], [0, 1]) == 0.0
    assert brier([0.0, 1.0], [0, 1]) == 0.0
    assert ece_top_label([0.0, 1.0], [0, 1]) == 0.0
    assert nll([1.0, 0.0], [0, 1]) == pytest.approx(36.04, abs=0.01)
    assert nll([1.0, 0.0], [0, 1]) == pytest.approx(log_loss([0, 1], [1.0, 0.0]))
    assert brier([1.0, 0.0], [0, 1]) == 1.0
    assert ece_positive([1.0, 0.0], [0, 1]) == 1.0


def test_one_class_is_enough():
    assert ece_positive([0.2, 0.4], [0, 0]) == pytest.approx(0.3)
    assert nll([0.5], [1]) == pytest.approx(np.log(2))


def test_mean_entropy():
    p = np.array([0.0, 0.1, 0.5, 1.0])
    expected = (0 - 0.1 * np.log(0.1) - 0.9 * np.log(0.9) + np.log(2) + 0) / 4
    assert mean_entropy(p) == pytest.approx(expected)


@pytest.mark.parametrize("measure", [ece_positive, ece_top_label, nll, brier, reliability_curve])
@pytest.mark.parametrize(
    ("p", "labels", "message"),
    [
        ([0.1, np.nan], [0, 1], "probabilities: .* got nan at index 1; a detector that is not"),
        ([0.1, 1.5], [0, 1], r"probabilities: expected probabilities in \[0, 1\], got 1.5 at"),
        ([-0.1, 0.5], [0, 1], "got -0.1 at index 0"),
        ([0.1, 0.5], [0], "probabilities and labels: expected equal lengths, got 2 and 1"),
        ([0.1, 0.5], [0, -1], "labels: .* got -1 at index 1"),
        ([], [], r"probabilities: expected shape \(n,\) with n >= 1, got \(0,\)"),
    ],
)
def test_bad_arguments_are_named(measure, p, labels, message):
    with pytest.raises(InputError, match=message):
        measure(p, labels)


@pytest.mark.parametrize("bins", [0, -1, 2.5, True])
def test_bad_bins_are_named(bins):
    with pytest.raises(InputError, match=f"bins: expected a whole number >= 1, got {bins}"):
        ece_positive([0.5], [1], bins=bins)


def test_mean_entropy_refuses_what_is_no_probability():
    with pytest.raises(InputError, match=r"probabilities: .* got nan at index 0"):
        mean_entropy([np.nan])
