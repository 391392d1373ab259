from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from robustad.errors import InputError
from robustad.metrics import augrc, aurc, risk_at_coverage, risk_coverage


def sample(seed=0, size=200):
    rng = np.random.default_rng(seed)
    p = rng.beta(0.6, 0.8, size)
    return p, (rng.random(size) < p).astype(int)


def by_hand(p, labels):
    """Sort by confidence and count, for distinct confidences."""
    confidence, wrong = np.maximum(p, 1 - p), (p >= 0.5) != labels
    order = sorted(range(p.size), key=lambda i: -confidence[i])
    errors, risks, general = 0, [], []
    for covered, i in enumerate(order, 1):
        errors += wrong[i]
        risks.append(errors / covered)
        general.append(errors / p.size)
    return risks, general


@pytest.mark.parametrize("seed", range(4))
def test_areas_by_hand(seed):
    p, labels = sample(seed)
    risks, general = by_hand(p, labels)
    assert aurc(p, labels) == pytest.approx(np.mean(risks))
    coverage = np.arange(p.size + 1) / p.size
    assert augrc(p, labels) == pytest.approx(np.trapezoid([0, *general], coverage))
    assert risk_at_coverage(p, labels, 0.9) == pytest.approx(risks[179])
    assert risk_at_coverage(p, labels, 1.0) == pytest.approx(((p >= 0.5) != labels).mean())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.3, 0.7, 0.9]), st.integers(0, 1)), min_size=1, max_size=6
    )
)
def test_ties_count_as_the_mean_over_all_orders(pairs):
    p, labels = map(np.array, zip(*pairs, strict=True))
    confidence, wrong = np.maximum(p, 1 - p), ((p >= 0.5) != labels).astype(float)
    curves = []
    for order in permutations(range(p.size)):
        sure = confidence[list(order)]
        if (np.diff(sure) <= 0).all():
            errors = np.cumsum(wrong[list(order)])
            curves.append([errors / np.arange(1, p.size + 1), errors / p.size])
    risks, general = np.mean(curves, axis=0)
    curve = risk_coverage(confidence, wrong)
    np.testing.assert_allclose(curve.risk, risks, rtol=0, atol=1e-12)
    np.testing.assert_allclose(curve.generalised_risk, general, rtol=0, atol=1e-12)
    assert aurc(p, labels) == pytest.approx(risks.mean())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.integers(0, 1)),
        min_size=2,
        max_size=60,
    )
)
def test_the_published_closed_form_of_augrc(pairs):
    p, labels = map(np.array, zip(*pairs, strict=True))
    wrong = (p >= 0.5) != labels
    accuracy = 1 - wrong.mean()
    ranking = 1.0
    if 0 < accuracy < 1:
        ranking = roc_auc_score(~wrong, np.maximum(p, 1 - p))
    expected = (1 - ranking) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert augrc(p, labels) == pytest.approx(expected, abs=1e-12)


def test_perfect_hopeless_and_useless():
    assert aurc([0.1, 0.9], [0, 1]) == augrc([0.1, 0.9], [0, 1]) == 0.0
    assert aurc([0.9, 0.1], [0, 1]) == 1.0
    assert augrc([0.9, 0.1], [0, 1]) == 0.5
    # A confidence that says nothing leaves the error rate at every coverage.
    assert aurc([0.5] * 10, [0] * 3 + [1] * 7) == pytest.approx(0.3)
    assert risk_at_coverage([0.5] * 10, [0] * 3 + [1] * 7, 0.1) == pytest.approx(0.3)


def test_whole_images_are_covered():
    p, labels = np.linspace(0.55, 0.99, 10), np.array([0] + [1] * 9)  # the least sure is wrong
    assert risk_at_coverage(p, labels, 0.9) == 0.0  # 9 images, not 10 by rounding
    assert risk_at_coverage(p, labels, 0.91) == pytest.approx(0.1)
    assert risk_at_coverage(p, labels, 1e-9) == 0.0


def test_the_threshold_makes_the_call():
    p, labels = [0.2, 0.4, 0.9], [0, 1, 1]
    assert aurc(p, labels) > 0
    assert aurc(p, labels, threshold=0.3) == 0.0


def test_losses_may_be_anything():
    curve = risk_coverage([3.0, 2.0, 1.0], [0.5, 0.0, 4.0])
    assert curve.coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert curve.risk.tolist() == pytest.approx([0.5, 0.25, 1.5])
    assert curve.generalised_risk.tolist() == pytest.approx([0.5 / 3, 0.5 / 3, 1.5])


def test_bad_arguments():
    with pytest.raises(InputError, match="confidence and loss: expected equal lengths, got 2 and"):
        risk_coverage([0.5, 0.6], [1.0])
    with pytest.raises(InputError, match="loss: expected numbers >= 0, got -1"):
        risk_coverage([0.5], [-1.0])
    with pytest.raises(InputError, match="confidence: expected finite"):
        risk_coverage([float("nan")], [1.0])
    with pytest.raises(InputError, match=r"coverage: expected a number in \(0, 1\], got 0"):
        risk_at_coverage([0.5], [1], 0.0)
    with pytest.raises(InputError, match=r"threshold: expected a number in \(0, 1\), got 1"):
        aurc([0.5], [1], threshold=1.0)
