import numpy as np
import pytest
from scipy.stats import betabinom

from robustad.conformal import ConformalScores
from robustad.errors import InputError
from robustad.evaluation import Condition, ConformalReport, Evaluation, Metrics, coverage


def evaluation(normal, held_out):
    """Of normal images with these scores, and one anomaly."""
    conformal = ConformalScores(held_out)
    scores = [*normal, 9.0]
    metrics = Metrics(auroc=1.0, ap=1.0, f1_max=1.0, gmean_max=1.0)
    clean = Condition(
        name="clean", score=scores, metrics=metrics, p_value=conformal.p_values(scores).tolist()
    )
    return Evaluation(
        method="m", dataset="d", category="c", eps=0.03, conditions={"clean": clean},
        names=[str(i) for i in range(len(scores))], defects=["good"] * len(scores),
        labels=[0] * len(normal) + [1],
        conformal=ConformalReport(scores=conformal.to_dict(), names=[], guarantee="some"),
    )  # fmt: skip


def test_realised_rates_and_where_they_should_lie():
    rng = np.random.default_rng(0)
    held_out, normal = rng.normal(size=59), rng.normal(size=40)
    found = coverage(evaluation(normal, held_out), alphas=[0.05, 0.2])
    for one, alpha, k in zip(found, (0.05, 0.2), (3, 12), strict=True):
        limit = np.sort(held_out)[-k]
        assert one.alpha == alpha
        assert one.realised == (np.float32(normal) > np.float32(limit)).mean()
        low, high = betabinom.ppf([0.025, 0.975], 40, k, 60 - k) / 40
        assert (one.low, one.high) == (low, high)
        assert one.low <= one.realised <= one.high


def test_a_rate_that_too_few_images_cannot_promise_never_alarms():
    found = coverage(evaluation([0.1, 5.0], [0.2, 0.3]), alphas=[0.1])
    assert found[0][1:] == (0.0, 0.0, 0.0)


def test_what_cannot_be_told():
    made = evaluation([0.1, 0.2], [0.2, 0.3])
    with pytest.raises(InputError, match=r"alphas: expected numbers in \(0, 1\), got 1"):
        coverage(made, alphas=[1])
    made.conformal = None
    with pytest.raises(InputError, match="evaluation: expected p-values, got none"):
        coverage(made)
