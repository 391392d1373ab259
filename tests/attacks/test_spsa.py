import pytest
import torch

from robustad.attacks import attack
from robustad.attacks.problem import Problem
from robustad.attacks.spsa import spsa
from robustad.errors import InputError


def problem_of(scorer, x, label, **options):
    return Problem.of(scorer, x, label=label, **{"eps": 0.05, **options})


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_it_comes_near_the_optimum_of_a_linear_score_of_any_scale(scorer, linear, images, scale):
    x, label = images(2), torch.tensor([0, 1])
    _, weight = linear(x.shape[1:])
    weight = weight.mean(dim=0) * scale
    made = scorer(lambda images: (images.flatten(1) @ weight.flatten())[:, None])
    problem = problem_of(made, x, label)
    found = spsa(problem, queries=4000)
    sign = (1 - 2 * label)[:, None, None, None] * weight.sign()
    best = (x + 0.05 * sign).clamp(0, 1)
    gain, possible = (problem.values(y) - problem.values(x) for y in (found, best))
    assert (gain >= 0.85 * possible).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_iterates_stay_in_the_ball_probes_in_the_range_and_queries_in_the_budget(
    smooth, images, norm
):
    x, seen, scorer = images(2), [], smooth()
    x[:, :, :4], x[:, :, 6:] = 0.0, 1.0
    inner = scorer.patch_scores
    scorer.patch_scores = lambda images: (seen.append(images.clone()), inner(images))[1]
    problem = problem_of(scorer, x, torch.tensor([0, 1]), norm=norm, eps=0.1, clean=inner(x))
    found = spsa(problem, queries=100, samples=8)
    assert problem.meter.forward.tolist() == [1 + 5 * 17] * 2  # 5 iterations of 17 fit
    assert all(float(one.min()) >= 0 and float(one.max()) <= 1 for one in seen)
    assert problem.inside(found).all()
    assert (problem.values(found) >= problem.values(x)).all()


def test_draws_do_not_depend_on_the_batch(smooth, images):
    scorer, x, label = smooth(), images(3), torch.tensor([0, 1, 0])
    options = {"queries": 60, "samples": 4}
    whole = spsa(problem_of(scorer, x, label, seeds=[4, 5, 6]), **options)
    for i in range(3):
        part = problem_of(scorer, x[i : i + 1], label[i : i + 1], seeds=[4 + i])
        values = [p.values(y) for p, y in ((part, spsa(part, **options)), (part, whole[i : i + 1]))]
        assert torch.allclose(*values, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"samples": 0}, "samples: expected >= 1, got 0"),
        ({"delta": 0.0}, r"delta: expected > 0 and < 0.5, got 0.0"),
        ({"delta": 0.5}, r"delta: expected > 0 and < 0.5"),
        ({"step_size": -1.0}, "step_size: expected > 0"),
        ({"queries": 257}, "queries: 257 allow 0 iterations of 257"),
        ({"queries": 1000, "steps": 4}, "queries: 1000 allow 3 iterations .* at least 4"),
    ],
)
def test_options_out_of_range_are_refused(smooth, images, options, match):
    with pytest.raises(InputError, match=match):
        spsa(problem_of(smooth(), images(1), torch.zeros(1).long()), **options)


def test_it_runs_by_name_within_its_queries(smooth, images):
    x, label = images(2), torch.tensor([0, 1])
    found = attack(smooth(), x, label=label, attack="spsa600_l2", eps=0.3)
    assert found.forward.tolist() == [1 + 2 * 257] * 2
    assert ((1 - 2 * label) * (found.score - found.clean_score) > 0).all()
