import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from robustad.attacks import LogitScale
from robustad.evaluation import evaluate
from robustad.evaluation.worst import beaten, order_margin, pair_margin, worst_of

coarse = st.integers(0, 8).map(float)  # few values, so that ties are common


@given(
    labels=st.lists(st.integers(0, 1), min_size=2, max_size=9).filter(lambda y: len(set(y)) == 2),
    data=st.data(),
)
def test_leaving_out_beaten_images_never_changes_the_worst_case_auroc(labels, data):
    labels = np.array(labels)
    passes = data.draw(arrays(np.float64, (5, len(labels)), elements=coarse))
    everything, _ = worst_of(passes, labels)
    so_far = passes[0]
    for scores in passes[1:]:
        left = ~beaten(so_far, labels)
        attacked, _ = worst_of([so_far, scores], labels)
        so_far = np.where(left, attacked, so_far)
    assert roc_auc_score(labels, so_far) == roc_auc_score(labels, everything)


def test_a_tie_is_not_beaten():
    assert beaten([0.5, 0.5], np.array([0, 1])).tolist() == [False, False]
    assert beaten([0.6, 0.5], np.array([0, 1])).tolist() == [True, True]
    assert beaten([0.4, 0.5], np.array([0, 1])).tolist() == [False, False]


def test_the_first_pass_counts_where_several_are_as_bad():
    score, chosen = worst_of([[1.0, 1.0], [1.0, 1.0], [2.0, 0.0]], np.array([0, 1]))
    assert score.tolist() == [2.0, 0.0]
    assert chosen.tolist() == [2, 2]
    assert worst_of([[1.0, 1.0], [1.0, 1.0]], np.array([0, 1]))[1].tolist() == [0, 0]


@given(
    scores=arrays(np.float32, (2, 6), elements=st.floats(-4, 4, width=32)),
    mask=arrays(np.bool_, (2, 6)),
)
def test_the_margin_is_the_mean_over_all_pairs(scores, mask):
    for row, truth, found in zip(scores, mask, pair_margin(scores, mask), strict=True):
        pairs = [float(a) - float(b) for a in row[truth] for b in row[~truth]]
        alone = row.mean(dtype=np.float64) * (1 if truth.all() else -1)
        assert found == pytest.approx(np.mean(pairs) if pairs else alone, abs=1e-6)


@given(
    scores=arrays(np.float32, (2, 2, 6), elements=st.floats(-4, 4, width=32)),
    mask=arrays(np.bool_, (2, 6)),
    level=st.floats(-2, 2),
)
def test_the_other_margin_is_that_of_squashed_logits(scores, mask, level):
    patch, clean = scores
    scale = LogitScale(torch.tensor(level, dtype=torch.float64), torch.tensor(0.5).double())
    margin = order_margin(patch, mask, clean=clean, scale=scale)
    for row, before, truth, found in zip(patch, clean, mask, margin, strict=True):
        normal = before[~truth].astype(float) if not truth.all() else before.astype(float)
        tau, spread = sorted(normal)[round(0.95 * (len(normal) - 1))], normal.std()
        if 0 < spread < 1e-6:
            return  # rounding decides whether there is a spread
        logits = (row - level) / 0.5, (row - tau) / (spread if spread > 0 else 1.0)
        row = sum(z / (1 + abs(z)) for z in logits) / 2
        pairs = [float(a) - float(b) for a in row[truth] for b in row[~truth]]
        alone = row.mean(dtype=np.float64) * (1 if truth.all() else -1)
        assert found == pytest.approx(np.mean(pairs) if pairs else alone, abs=1e-5)


def test_patches_count_near_the_level_of_the_detector_and_of_the_image():
    clean, mask = np.array([[0.0, 2.0, 9.0, 9.0]]), np.array([[False, False, True, True]])
    scale = LogitScale(torch.tensor(4.0), torch.tensor(1.0))

    def margin(*patch):
        return float(order_margin(np.array([patch]), mask, clean=clean, scale=scale)[0])

    at = margin(2.0, 2.0, 9.0, 9.0)
    # one unit of a normal patch near the levels counts more than ten units far beyond
    far = margin(90.0, 2.0, 9.0, 9.0), margin(100.0, 2.0, 9.0, 9.0)
    assert at - margin(3.0, 2.0, 9.0, 9.0) > far[0] - far[1] > 0  # but never nothing


def test_skipping_keeps_the_worst_case_auroc_and_saves_passes(redness, samples):
    data = samples(0, 16)
    options = {"attacks": ("fgsm", "pgd10", "pgd20"), "eps": (0.05, 0.01), "batch_size": 3}
    whole = evaluate(redness(), data, **options)
    quick = evaluate(redness(), data, skip_beaten=True, **options)
    assert list(quick.conditions) == ["clean", "worst_case", "worst_case@2.55/255"]
    for name in ("worst_case", "worst_case@2.55/255"):
        assert quick.conditions[name].metrics.auroc == whole.conditions[name].metrics.auroc
    assert quick.settings["skipped"]["pgd20"] > 0
    assert quick.settings["skipped"]["fgsm@2.55/255"] == 0
    forward = [sum(e.conditions["worst_case"].forward) for e in (quick, whole)]
    assert 0 < forward[0] < forward[1]
    left = 3 * len(data) - sum(v for k, v in quick.settings["skipped"].items() if "@" not in k)
    chosen = quick.conditions["worst_case"].chosen
    assert set(chosen) <= {"clean", *(f"{n}{e}" for n in options["attacks"]
                                     for e in ("", "@2.55/255"))}  # fmt: skip
    assert left > 0
