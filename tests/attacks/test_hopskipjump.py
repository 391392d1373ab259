import pytest
import torch

from robustad.attacks import attack
from robustad.attacks.hopskipjump import hopskipjump, nearest
from robustad.attacks.problem import Problem
from robustad.errors import InputError


def problem_of(scorer, x, label, **options):
    return Problem.of(scorer, x, label=label, **{"eps": 0.05, "threshold": 0.0, **options})


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_comes_close_to_the_nearest_image_of_a_linear_score(
    linear, images, nearest_of_linear, norm
):
    x = images(4)
    scorer, weight = linear(x.shape[1:], seed=3)
    score = scorer.aggregate(scorer.patch_scores(x))
    label = torch.tensor([0, 1, 0, 1])
    threshold = float(score.mean())
    problem = problem_of(scorer, x, label, threshold=threshold, norm=norm)
    found = nearest(problem, queries=4000)
    wrong = (score >= threshold) == (label == 0)
    for i in range(4):
        missing = threshold - float(score[i])
        expected = 0.0 if wrong[i] else nearest_of_linear(x[i], weight.mean(0), missing, norm)
        # below only by rounding: what is found is across
        assert 0.999 * expected <= float(found.distance[i]) <= 1.2 * expected
    after = scorer.aggregate(scorer.patch_scores(found.images))
    assert torch.equal(after >= threshold, label == 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("queries", [1, 7, 150, 400])
def test_the_budget_is_respected_and_only_decisions_are_used(scorer, linear, images, norm, queries):
    x = images(3)
    _, weight = linear(x.shape[1:])
    middle = float((x[0] * weight.mean(0)).sum()) + 2.0
    asked = []

    def verdict(images):
        asked.append(len(images))
        return ((images * weight.mean(0)).sum(dim=(1, 2, 3)) >= middle).float()[:, None]

    decider = scorer(verdict)
    problem = problem_of(decider, x, torch.tensor([0, 0, 1]), threshold=0.5, norm=norm)
    clean = asked.pop()
    found = nearest(problem, queries=queries)
    assert clean == 3
    assert int(problem.meter.forward.max()) <= queries
    assert int(problem.meter.forward.sum()) == sum(asked)
    assert "query_budget" in problem.meter.flags or "no_start" in problem.meter.flags
    across = (verdict(found.images)[:, 0] > 0) == (problem.label == 0)
    assert torch.equal(across, found.found)


def test_booleans_are_verdicts_without_a_threshold(linear, images):
    x = images(1)
    scorer, _ = linear(x.shape[1:])
    middle = float(scorer.aggregate(scorer.patch_scores(x))) + 0.5
    found = attack(
        lambda images: scorer.aggregate(scorer.patch_scores(images)) >= middle,
        x,
        label=torch.tensor([0]),
        attack="hopskipjump600",
        eps=0.5,
    )
    assert found.success.tolist() == [True]
    assert int(found.forward) <= 600


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_draws_do_not_depend_on_the_batch(scorer, images, norm):
    x, label = images(3), torch.tensor([0, 1, 0])
    weight = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(2))
    # rounded alike in every batch, as one decision that flips changes all that follow
    made = scorer(lambda images: torch.stack([(one * weight).sum() for one in images])[:, None])
    threshold = float(made.patch_scores(x).mean())
    options = {"threshold": threshold, "norm": norm}
    whole = nearest(problem_of(made, x, label, seeds=[4, 5, 6], **options), queries=400)
    for i in range(3):
        part = problem_of(made, x[i : i + 1], label[i : i + 1], seeds=[4 + i], **options)
        alone = nearest(part, queries=400)
        assert float(alone.distance) == pytest.approx(float(whole.distance[i]), rel=1e-4)


def test_a_pool_gives_the_first_image_where_noise_does_not(scorer, images):
    """Anomalous is whatever is not almost constant: blurs and noise do not pass."""
    x = images(2)
    normal = torch.zeros(1, 3, 8, 8)
    normal[..., ::2] = 1.0  # stripes that no blur of the images has
    made = scorer(lambda images: (images - normal).abs().mean(dim=(1, 2, 3))[:, None])
    label = torch.ones(2, dtype=torch.int64)
    problem = problem_of(made, x, label, threshold=0.1, eps=0.02)
    lost = nearest(problem, queries=200, trials=20)
    assert not lost.found.any()
    assert problem.meter.flags == {"no_start"}
    assert torch.equal(hopskipjump(problem, queries=50, trials=5), x)
    problem = problem_of(made, x, label, threshold=0.1, eps=0.02)
    found = nearest(problem, queries=200, pool=normal)
    assert found.found.all()
    answer = hopskipjump(problem, queries=200, pool=normal)
    assert torch.allclose((answer - x).abs().amax(dim=(1, 2, 3)), torch.full((2,), 0.02))


def test_blurs_hide_a_defect(scorer, images):
    x = torch.full((1, 3, 32, 32), 0.5)
    x[..., 12:18, 12:18] = 1.0
    made = scorer(lambda images: images.amax(dim=(1, 2, 3))[:, None])
    problem = problem_of(made, x, torch.tensor([1]), threshold=0.8)
    found = nearest(problem, queries=60, trials=0)
    assert found.found.all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"iterations": 0}, "iterations: expected >= 1, got 0"),
        ({"queries": 0}, "queries: expected >= 1"),
        ({"probes": 1}, "probes: expected >= 2"),
        ({"trials": -1}, "trials: expected >= 0"),
        ({"pool": torch.zeros(2, 3, 4, 4)}, r"pool: expected images \(M, \(3, 8, 8\)\)"),
    ],
)
def test_options_out_of_range_are_refused(smooth, images, options, match):
    with pytest.raises(InputError, match=match):
        hopskipjump(problem_of(smooth(), images(1), torch.zeros(1).long()), **options)


def test_other_norms_and_missing_thresholds_are_refused(smooth, images):
    scorer, x, label = smooth(), images(1), torch.zeros(1).long()
    with pytest.raises(InputError, match="norm: HopSkipJump knows 'linf' and 'l2', got 'l1'"):
        hopskipjump(problem_of(scorer, x, label, norm="l1"))
    with pytest.raises(InputError, match="threshold: this attack needs"):
        hopskipjump(problem_of(scorer, x, label, threshold=None))
