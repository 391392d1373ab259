import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.certificates import certified_auroc, certified_rates
from robustad.errors import InputError
from robustad.metrics import auroc, rates_at

LABELS = [0, 0, 0, 1, 1, 1]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=6, max_size=6),
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
    st.floats(-1, 2),
)
def test_no_scores_within_the_intervals_do_worse(ends, shares, threshold):
    lower = np.array([low for low, _ in ends])
    upper = lower + np.array([width for _, width in ends])
    score = np.clip(lower + np.array(shares) * (upper - lower), lower, upper)
    assert certified_auroc(lower, upper, LABELS) <= auroc(score, LABELS) + 1e-12
    worst = certified_rates(lower, upper, LABELS, threshold)
    found = rates_at(score, LABELS, threshold)
    assert worst.fpr >= found.fpr
    assert worst.fnr >= found.fnr - 1e-12


def test_it_is_attained_at_the_ends():
    lower, upper = np.array([0.1, 0.3, 0.2, 0.5, 0.4, 0.9]), np.array([0.2, 0.6, 0.45, 0.8, 0.7, 1])
    worst = np.where(np.array(LABELS) == 1, lower, upper)
    assert certified_auroc(lower, upper, LABELS) == auroc(worst, LABELS)
    assert certified_rates(lower, upper, LABELS, 0.45) == rates_at(worst, LABELS, 0.45)


def test_images_without_a_bound_are_lost():
    lower, upper = [0.0, -np.inf, 0.0, 0.5, -np.inf, 0.8], [0.1, np.inf, 0.1, 0.6, np.inf, 0.9]
    # 2 of 3 normal images are below 2 of 3 anomalous ones
    assert certified_auroc(lower, upper, LABELS) == pytest.approx(4 / 9)
    assert certified_rates(lower, upper, LABELS, 0.3) == pytest.approx((1 / 3, 1 / 3))
    nothing = [-np.inf] * 6, [np.inf] * 6
    assert certified_auroc(*nothing, LABELS) == 0.0
    assert certified_rates(*nothing, LABELS, 0.3) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("lower", "upper", "labels", "message"),
    [
        ([0, 1], [1, 2], [0, 0], r"labels: expected 0 and 1, both present, got \[0\]"),
        ([0, 1], [1, 2], [0, 2], r"labels: expected 0 and 1, both present, got \[0, 2\]"),
        ([0, 1], [1], [0, 1], r"three arrays \(n,\), got \(2,\), \(1,\) and \(2,\)"),
        ([[0, 1]], [[1, 2]], [[0, 1]], r"three arrays \(n,\)"),
        ([0, 3], [1, 2], [0, 1], "expected bounds with lower <= upper and no NaN"),
        ([0, np.nan], [1, 2], [0, 1], "expected bounds with lower <= upper and no NaN"),
    ],
)
def test_bad_intervals(lower, upper, labels, message):
    for call in (certified_auroc, lambda *given: certified_rates(*given, 0.5)):
        with pytest.raises(InputError, match=message):
            call(lower, upper, labels)


def test_bad_threshold():
    with pytest.raises(InputError, match="threshold: expected a score, got NaN"):
        certified_rates([0, 1], [1, 2], [0, 1], np.nan)
