import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from robustad.errors import InputError
from robustad.metrics import (
    augrc,
    aurc,
    brier,
    brier_parts,
    ece_adaptive,
    ece_positive,
    ece_top_label,
    mean_entropy,
    nll,
    reliability_curve,
    risk_at_coverage,
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


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 9).map(lambda k: k / 9), st.integers(0, 1)),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 12),
)
def test_equal_mass_bins_by_hand(pairs, bins):
    p, labels = map(np.array, zip(*pairs, strict=True))
    # Each image's rank among all, equal ones sharing the middle of theirs.
    rank = [(p < one).sum() + ((p == one).sum() - 1) / 2 + 0.5 for one in p]
    place = [int(np.floor(r * bins / p.size + 1e-12)) for r in rank]
    expected = 0.0
    for one in set(place):
        inside = np.array([each == one for each in place])
        expected += abs(labels[inside].mean() - p[inside].mean()) * inside.mean()
    assert ece_adaptive(p, labels, bins=bins) == pytest.approx(expected, abs=1e-12)


def test_equal_mass_bins_hold_equal_counts():
    p, labels = sample(0, 503)
    order = np.argsort(p)
    parts = np.array_split(order, 10)
    loose = sum(abs(labels[part].mean() - p[part].mean()) * part.size for part in parts) / 503
    assert ece_adaptive(p, labels) == pytest.approx(loose, abs=0.01)  # off by one at the borders
    assert ece_adaptive(p, labels, bins=1) == pytest.approx(ece_positive(p, labels, bins=1))
    # A crowd at one probability is one bin, however large.
    assert ece_adaptive([0.5] * 100, [0, 1] * 50) == 0.0


MEASURES = [
    ece_positive,
    ece_top_label,
    ece_adaptive,
    nll,
    brier,
    brier_parts,
    reliability_curve,
    aurc,
    augrc,
    risk_at_coverage,
]


@pytest.mark.parametrize("measure", MEASURES)
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
@pytest.mark.parametrize("measure", [ece_positive, ece_top_label, ece_adaptive, brier_parts])
def test_bad_bins_are_named(measure, bins):
    with pytest.raises(InputError, match=f"bins: expected a whole number >= 1, got {bins}"):
        measure([0.5], [1], bins=bins)


def test_mean_entropy_refuses_what_is_no_probability():
    with pytest.raises(InputError, match=r"probabilities: .* got nan at index 0"):
        mean_entropy([np.nan])
