import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from robustad.errors import InputError
from robustad.metrics import bootstrap
from robustad.metrics.bootstrap import auroc_interval


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
