import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from robustad.attacks.objectives import Scores, misorder
from robustad.evaluation import evaluate
from robustad.evaluation.worst import beaten, pair_margin, worst_of

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
    scores=arrays(np.float32, (2, 2, 6), elements=st.floats(-4, 4, width=32)),
    mask=arrays(np.bool_, (2, 6)),
)
def test_the_margin_is_the_mean_over_all_pairs_of_squashed_scores(scores, mask):
    scores, clean = scores
    margin = pair_margin(scores, mask, clean)
    for row, before, truth, found in zip(scores, clean, mask, margin, strict=True):
        normal = before[~truth].astype(float) if not truth.all() else before.astype(float)
        tau, spread = sorted(normal)[round(0.95 * (len(normal) - 1))], normal.std()
        z = (row - tau) / (spread if spread > 0 else 1.0)
        row = z / (1 + abs(z))
        pairs = [float(a) - float(b) for a in row[truth] for b in row[~truth]]
        alone = row.mean(dtype=np.float64) * (1 if truth.all() else -1)
        assert found == pytest.approx(np.mean(pairs) if pairs else alone, abs=1e-6)


@given(
    scores=arrays(np.float32, (2, 3, 7), elements=st.integers(-9, 9).map(lambda k: k / 4)),
    mask=arrays(np.bool_, (3, 7)),
)
def test_it_is_what_attacks_keep_with_the_sign_turned(scores, mask):
    patch, clean = map(torch.from_numpy, scores)
    asked = Scores(
        patch=patch, image=patch[:, 0], label=torch.zeros(3), mask=torch.from_numpy(mask),
        clean=clean,
    )  # fmt: skip
    assert np.allclose(misorder(asked).numpy(), -pair_margin(scores[0], mask, scores[1]), atol=1e-6)


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
