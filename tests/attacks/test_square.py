from itertools import pairwise

import pytest
import torch

from robustad.attacks import attack
from robustad.attacks.problem import Problem
from robustad.attacks.square import share, square
from robustad.errors import InputError


def problem_of(scorer, x, label, *, eps=0.05, norm="linf", **options):
    return Problem.of(scorer, x, label=label, eps=eps, norm=norm, **options)


def alternating(count):
    return torch.arange(count) % 2


def test_it_reaches_the_optimum_of_a_linear_score(linear, images):
    x = images(4)
    x[:, :, :2], x[:, :, 6:] = 0.0, 1.0
    scorer, weight = linear(x.shape[1:])
    label = alternating(4)
    problem = problem_of(scorer, x, label)
    found = square(problem, queries=1200)
    sign = (1 - 2 * label)[:, None, None, None] * weight.mean(dim=0).sign()
    best = (x + 0.05 * sign).clamp(0, 1)
    gain = problem.values(found) - problem.values(x)
    possible = problem.values(best) - problem.values(x)
    assert (gain >= 0.97 * possible).all()
    assert (gain <= possible + 1e-4).all()


@pytest.mark.parametrize(("norm", "eps", "share"), [("l2", 0.7, 0.5), ("l1", 5.0, 0.5)])
def test_it_comes_near_the_optimum_of_a_linear_score_in_other_balls(
    linear, images, norm, eps, share
):
    x = images(4) * 0.6 + 0.2
    scorer, weight = linear(x.shape[1:])
    label = alternating(4)
    problem = problem_of(scorer, x, label, norm=norm, eps=eps)
    gain = problem.values(square(problem, queries=3000)) - problem.values(x)
    slope = weight.mean(dim=0).flatten()
    if norm == "l2":  # the box is far enough away
        possible = eps * slope.norm().expand(4)
    else:  # the steepest pixels first, each as far as the box lets it
        order = slope.abs().argsort(descending=True)
        up = (1 - 2 * label)[:, None] * slope > 0
        room = torch.where(up, 1 - x.flatten(1), x.flatten(1))[:, order]
        before = room.cumsum(dim=1) - room
        moved = torch.minimum((eps - before).clamp_min(0), room)
        possible = (moved * slope.abs()[order]).sum(dim=1)
    print(gain / possible)
    assert (gain >= share * possible).all()
    assert (gain <= possible + 1e-4).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_candidate_is_in_the_ball_and_every_query_counts(smooth, images, norm):
    scorer, x, eps = smooth(), images(3), {"linf": 0.05, "l2": 0.7, "l1": 5.0}[norm]
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    seen = []
    inner = scorer.patch_scores
    scorer.patch_scores = lambda images: (seen.append(images.clone()), inner(images))[1]
    problem = problem_of(scorer, x, alternating(3), eps=eps, norm=norm, clean=inner(x))
    found = square(problem, queries=60)
    assert len(seen) == 60
    assert problem.meter.forward.tolist() == [60] * 3
    assert problem.meter.backward.tolist() == [0] * 3
    for candidate in seen:
        far = torch.linalg.vector_norm((candidate - x).flatten(1), ord=order, dim=1)
        assert (far <= eps + 1e-5).all()
        assert float(candidate.min()) >= 0
        assert float(candidate.max()) <= 1
    values = torch.stack([problem.values(candidate) for candidate in seen[:60]])
    assert torch.allclose(problem.values(found), values.amax(dim=0))
    assert all(not torch.equal(one, other) for one, other in pairwise(seen))


def test_it_starts_with_stripes_and_changes_one_window(scorer, images):
    x = images(2) * 0.8 + 0.1
    seen = []
    flat = scorer(lambda images: (seen.append(images.clone()), images.flatten(2).mean(dim=2))[1])
    square(problem_of(flat, x, torch.zeros(2).long()), queries=40)
    stripes = (seen[1] - x) / 0.05  # seen[0] is the clean pass
    assert torch.allclose(stripes.abs(), torch.ones_like(x), atol=1e-5)
    assert torch.allclose(stripes, stripes[:, :, :1].expand_as(stripes), atol=1e-5)
    best = seen[1]
    for candidate in seen[2:]:
        for i in range(2):
            rows, columns = (candidate[i] != best[i]).any(dim=0).nonzero().T
            assert len(rows)
            tall, wide = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
            assert max(tall, wide) <= 7  # sqrt(.8 * 64), rounded
        better = flat.aggregate(candidate.flatten(2).mean(2)) > flat.aggregate(
            best.flatten(2).mean(2)
        )
        best = torch.where(better[:, None, None, None], candidate, best)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_draws_do_not_depend_on_the_batch(smooth, images, norm):
    scorer, x, label = smooth(), images(4), alternating(4)
    whole = square(problem_of(scorer, x, label, norm=norm, seeds=[5, 6, 7, 8]), queries=80)
    for i in range(4):
        part = problem_of(scorer, x[i : i + 1], label[i : i + 1], norm=norm, seeds=[5 + i])
        assert torch.allclose(square(part, queries=80)[0], whole[i], atol=1e-5)


def test_the_schedule_halves_the_share_nine_times():
    assert [share(q, 10_000, 0.8) for q in (1, 10, 11, 51, 201, 501)] == [
        0.8, 0.8, 0.4, 0.2, 0.1, 0.05,
    ]  # fmt: skip
    assert share(9_999, 10_000, 0.8) == 0.8 / 512
    assert share(11, 100, 0.8) == share(1_100, 10_000, 0.8)


def test_stopping_early_saves_queries_of_the_images_that_crossed(linear, images):
    x = images(4)
    scorer, _ = linear(x.shape[1:])
    score = scorer.aggregate(scorer.patch_scores(x))
    label = torch.zeros(4, dtype=torch.int64)
    threshold = float(score.sort().values[1:3].mean()) + 2.0
    problem = problem_of(scorer, x, label, threshold=threshold)
    found = square(problem, queries=300, stop=True)
    crossed = scorer.aggregate(scorer.patch_scores(found)) >= threshold
    assert torch.equal(problem.meter.forward < 300, crossed)
    assert 0 < int(crossed.sum()) < 4
    whole = square(problem_of(scorer, x, label, threshold=threshold), queries=300)
    assert torch.equal(whole[~crossed], found[~crossed])
    with pytest.raises(InputError, match="threshold: "):
        square(problem_of(scorer, x, label), queries=10, stop=True)


def test_tiny_and_oblong_images_work(scorer):
    flat = scorer(lambda images: images.flatten(2).mean(dim=2))
    for shape in ((1, 3, 1, 1), (2, 3, 2, 9), (1, 3, 4, 3)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        for norm in ("linf", "l2", "l1"):
            problem = problem_of(flat, x, torch.zeros(shape[0]).long(), norm=norm)
            found = square(problem, queries=30)
            assert (problem.values(found) > problem.values(x)).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"queries": 0}, "queries: expected >= 1, got 0"),
        ({"p": 0.0}, r"p: expected a share of the pixels in \(0, 1\], got 0.0"),
        ({"p": 1.1}, "p: expected a share"),
    ],
)
def test_options_out_of_range_are_refused(smooth, images, options, match):
    with pytest.raises(InputError, match=match):
        square(problem_of(smooth(), images(1), torch.zeros(1).long()), **options)


def test_it_runs_by_name_within_its_queries(smooth, images):
    x = images(2)
    found = attack(smooth(), x, label=alternating(2), attack="square200", eps=0.05)
    assert found.forward.tolist() == [200, 200]
    assert found.backward.tolist() == [0, 0]
    fewer = attack(smooth(), x, label=alternating(2), attack="square", queries=20, eps=0.05)
    assert fewer.forward.tolist() == [20, 20]
