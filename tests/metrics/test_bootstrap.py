import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from robustad.errors import InputError
from robustad.metrics import auroc, bootstrap, brier
from robustad.metrics.bootstrap import auroc_interval, bootstrap_interval


@pytest.mark.parametrize("decimals", [6, 1])  # the second has many ties
def test_agrees_with_pairwise_counting(decimals: int) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [25, 35])
    scores = (rng.normal(size=60) + labels).round(decimals)
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    draws = []
    for _ in range(3000):
        a, b = rng.choice(normal, 25), rng.choice(anomalous, 35)[:, None]
        draws.append(((b > a) + 0.5 * (b == a)).mean())
    whole = ((anomalous[:, None] > normal) + 0.5 * (anomalous[:, None] == normal)).mean()
    assert whole == pytest.approx(roc_auc_score(labels, scores))
    expected = np.quantile(draws, [0.025, 0.975])
    assert np.abs(np.array(auroc_interval(scores, labels, draws=3000)) - expected).max() < 0.02


def test_is_seeded_and_brackets_the_value() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(50) % 2
    scores = rng.normal(size=50) + 0.8 * labels
    first = auroc_interval(scores, labels)
    assert first == auroc_interval(scores, labels)
    assert first != auroc_interval(scores, labels, seed=1)
    assert first.low < roc_auc_score(labels, scores) < first.high
    wider = auroc_interval(scores, labels, level=0.99)
    assert wider.low < first.low
    assert wider.high > first.high


def test_more_images_make_it_narrower() -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(400) % 2
    scores = rng.normal(size=400) + labels
    few, many = auroc_interval(scores[:40], labels[:40]), auroc_interval(scores, labels)
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_perfect_and_constant_scores_have_no_width() -> None:
    assert auroc_interval([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == (1.0, 1.0)
    assert auroc_interval([0.8, 0.9, 0.1, 0.2], [0, 0, 1, 1]) == (0.0, 0.0)
    assert auroc_interval([0.5] * 4, [0, 0, 1, 1]) == (0.5, 0.5)


def test_refuses_one_class() -> None:
    with pytest.raises(InputError, match="expected both 0"):
        auroc_interval([0.1, 0.2], [1, 1])


def test_in_parts_as_at_once(monkeypatch) -> None:
    labels = np.repeat([0, 1], 30)
    scores = np.random.default_rng(4).normal(size=60) + labels
    whole = auroc_interval(scores, labels, draws=4000)
    monkeypatch.setattr(bootstrap, "CELLS", 60 * 7)
    parts = auroc_interval(scores, labels, draws=4000)
    assert parts == pytest.approx(whole, abs=0.01)


def test_any_measure_agrees_with_the_special_case() -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(60) % 2
    scores = rng.normal(size=60) + 0.8 * labels
    special = auroc_interval(scores, labels, draws=3000)
    assert bootstrap_interval(auroc, scores, labels, draws=3000) == pytest.approx(special, abs=0.02)


def test_a_mean_has_the_interval_of_the_central_limit() -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], [200, 300])
    p = rng.random(500)
    each = np.square(p - labels)
    groups = [each[labels == k] for k in (0, 1)]
    spread = np.sqrt(sum(group.size * group.var() for group in groups)) / 500
    expected = each.mean() + 1.96 * spread * np.array([-1, 1])
    found = bootstrap_interval(brier, p, labels)
    assert found == pytest.approx(expected, abs=0.1 * spread)
    assert found == bootstrap_interval(brier, p, labels)
    assert found != bootstrap_interval(brier, p, labels, seed=1)
    narrow = bootstrap_interval(brier, p, labels, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_both_labels_are_drawn_as_often_as_they_occur() -> None:
    labels = np.repeat([0, 1], [3, 40])
    share = bootstrap_interval(lambda _, truth: truth.mean(), labels, labels, draws=50)
    assert share == pytest.approx((40 / 43, 40 / 43))


def test_bad_options_of_any_measure() -> None:
    with pytest.raises(InputError, match="labels: expected both"):
        bootstrap_interval(brier, [0.5], [1])
    with pytest.raises(InputError, match=r"level: expected a number in \(0, 1\), got 1"):
        bootstrap_interval(brier, [0.5, 0.5], [0, 1], level=1.0)
    for draws in (0, 2.5, True):
        with pytest.raises(InputError, match="draws: expected a whole number >= 1, got"):
            bootstrap_interval(brier, [0.5, 0.5], [0, 1], draws=draws)
