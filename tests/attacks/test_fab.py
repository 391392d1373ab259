import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.attacks import attack, fab
from robustad.attacks.plane import Way, to_plane
from robustad.attacks.problem import Problem
from robustad.errors import InputError

NORMS = ["linf", "l2", "l1"]
ORDER = {"linf": torch.inf, "l2": 2, "l1": 1}


def problem_of(scorer, x, label, *, threshold=0.0, eps=0.05, norm="linf", seeds=None):
    return Problem.of(scorer, x, label=label, eps=eps, norm=norm, threshold=threshold, seeds=seeds)


@pytest.mark.parametrize("norm", NORMS)
def test_the_nearest_image_of_a_linear_score_is_known(linear, images, nearest_of_linear, norm):
    x = images(6)
    x[:, :, :3], x[:, :, 5:] = 0.0, 1.0  # the box matters
    scorer, weight = linear(x.shape[1:])
    score = scorer.aggregate(scorer.patch_scores(x))
    label = torch.tensor([0, 1, 0, 1, 0, 1])
    threshold = float(score.mean())
    found = fab.nearest(problem_of(scorer, x, label, threshold=threshold, norm=norm), iterations=5)
    wrong = (score >= threshold) == (label == 0)
    assert 0 < int(wrong.sum()) < 6
    for i in range(6):
        missing = threshold - float(score[i])
        expected = 0.0 if wrong[i] else nearest_of_linear(x[i], weight.mean(0), missing, norm)
        assert float(found.distance[i]) == pytest.approx(expected, abs=1e-5)
    after = scorer.aggregate(scorer.patch_scores(found.images))
    assert torch.equal(after >= threshold, label == 0)
    assert torch.equal(found.images[wrong], x[wrong])
    assert found.found.all()


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_projections_on_a_plane_are_shortest(nearest_of_linear, norm, data):
    value = st.floats(0, 1, width=32)
    x = torch.tensor(data.draw(st.lists(value, min_size=12, max_size=12)))
    slopes = st.sampled_from([-2.0, -1.0, -1e-3, 0.0, 1e-3, 0.5, 1.0, 3.0])
    weight = torch.tensor(data.draw(st.lists(slopes, min_size=12, max_size=12)))
    room = torch.where(weight > 0, 1 - x, x) * weight.abs()
    reachable = float(room.sum())
    share = data.draw(st.floats(0.01, 0.99))
    if reachable < 1e-2:
        return
    missing = torch.tensor([share * reachable], dtype=torch.float64)
    image, gradient = x.view(1, 3, 2, 2), weight.view(1, 3, 2, 2)
    move = to_plane(image, gradient, missing, norm)
    assert float((move * gradient).sum()) == pytest.approx(float(missing), abs=1e-4)
    assert float((image + move).min()) >= -1e-6
    assert float((image + move).max()) <= 1 + 1e-6
    length = float(torch.linalg.vector_norm(move, ord=ORDER[norm]))
    expected = nearest_of_linear(image[0], gradient[0], float(missing), norm)
    assert length == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_share_of_the_way_gains_that_much_at_least_as_long_as_it_goes_on(norm):
    """Shorter shares are themselves shortest moves, to a nearer plane."""
    generator = torch.Generator().manual_seed(3)
    x, slope = torch.rand(2, 2, 3, 2, 2, generator=generator).unbind()
    slope = slope - 0.5
    way = Way.of(x, slope, torch.tensor([0.6, -0.6], dtype=torch.float64), norm)
    for share in (0.1, 0.4, 0.9):
        move = way.move(torch.full((2,), share, dtype=torch.float64))
        gained = (move.double() * slope).sum(dim=(1, 2, 3))
        again = to_plane(x, slope, gained, norm)
        assert torch.allclose(move, again, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_no_point_of_a_fine_grid_is_nearer(scorer, norm):
    """On a curved score of three pixels, by looking at all of them."""
    x = torch.tensor([0.2, 0.5, 0.7]).view(1, 3, 1, 1)

    def score(images):
        a, b, c = images.flatten(1).T
        return (torch.sin(3 * a) + b * b - 0.4 * c * a)[:, None]

    threshold = 1.2
    problem = problem_of(scorer(score), x, torch.tensor([0]), threshold=threshold, norm=norm)
    found = fab.nearest(problem, iterations=30)
    line = torch.linspace(0, 1, 101)
    grid = torch.cartesian_prod(line, line, line)
    across = grid[score(grid.view(-1, 3, 1, 1))[:, 0] >= threshold]
    nearest = torch.linalg.vector_norm(across - x.flatten(), ord=ORDER[norm], dim=1).min()
    assert float(nearest) - 0.03 <= float(found.distance) <= float(nearest) + 1e-4


def test_a_plane_outside_the_box_is_approached_as_far_as_the_box_goes():
    x = torch.full((1, 3, 2, 2), 0.75)
    gradient = torch.ones_like(x)
    gradient[0, 0] = -1
    for norm in NORMS:
        move = to_plane(x, gradient, torch.tensor([1e6], dtype=torch.float64), norm)
        corner = torch.where(gradient > 0, 1.0, 0.0)
        assert torch.allclose(x + move, corner)


def test_no_gradient_means_no_move():
    x = torch.full((1, 3, 2, 2), 0.5)
    for norm in NORMS:
        move = to_plane(x, torch.zeros_like(x), torch.ones(1, dtype=torch.float64), norm)
        assert torch.equal(move, torch.zeros_like(x))


@pytest.mark.parametrize("norm", NORMS)
def test_the_answer_stays_in_the_ball_and_uses_it_up(smooth, images, norm):
    scorer, x = smooth(), images(6)
    score = scorer.aggregate(scorer.patch_scores(x))
    threshold, eps = float(score.median()), {"linf": 0.05, "l2": 0.5, "l1": 4.0}[norm]
    label = (score >= threshold).long()
    problem = problem_of(scorer, x, label, threshold=threshold, eps=eps, norm=norm)
    nearest = fab.nearest(problem, iterations=10)
    made = fab.fab(problem, iterations=10)
    far = torch.linalg.vector_norm((made - x).flatten(1), ord=ORDER[norm], dim=1)
    assert (far <= eps + 1e-5).all()
    after = scorer.aggregate(scorer.patch_scores(made))
    within = nearest.distance < eps
    assert within.any()
    assert ((after >= threshold) != label.bool())[within].all()
    assert (far[within] > nearest.distance[within]).any()  # stretched to the surface


def test_passes_are_counted(smooth, images):
    scorer, x = smooth(), images(3)
    score = scorer.aggregate(scorer.patch_scores(x))
    label = torch.tensor([0, 0, 1])
    threshold = float(score.max()) + 0.01  # the last one is on the wrong side already
    problem = problem_of(scorer, x, label, threshold=threshold, eps=0.5)
    found = fab.nearest(problem, iterations=7, search=0)
    assert problem.meter.forward.tolist() == [14, 14, 0]
    assert problem.meter.backward.tolist() == [7, 7, 0]
    assert float(found.distance[2]) == 0


def test_restarts_never_weaken_it_and_do_not_depend_on_the_batch(smooth, images):
    scorer, x = smooth(), images(4)
    score = scorer.aggregate(scorer.patch_scores(x))
    threshold = float(score.max()) + 0.05
    label = torch.zeros(4, dtype=torch.int64)
    options = {"threshold": threshold, "eps": 0.3}
    once = fab.nearest(problem_of(scorer, x, label, **options), iterations=5)
    thrice = fab.nearest(problem_of(scorer, x, label, **options), iterations=5, restarts=3)
    assert (thrice.distance <= once.distance + 1e-6).all()
    one = fab.nearest(
        problem_of(scorer, x[2:3], label[:1], seeds=[2], **options), iterations=5, restarts=3
    )
    assert torch.allclose(one.images[0], thrice.images[2], atol=1e-5)


def test_a_score_that_cannot_cross_leaves_the_image(scorer, images):
    flat = scorer(lambda x: torch.sigmoid(x.flatten(2).mean(dim=2)))
    x = images(2)
    found = fab.nearest(problem_of(flat, x, torch.zeros(2).long(), threshold=5.0), iterations=3)
    assert not found.found.any()
    assert torch.equal(found.images, x)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"iterations": 0}, "iterations: expected >= 1, got 0"),
        ({"restarts": 0}, "restarts: expected >= 1"),
        ({"search": -1}, "search: expected >= 0"),
        ({"alpha_max": 1.5}, r"alpha_max: expected a share in \[0, 1\]"),
        ({"eta": 0.9}, "eta: expected >= 1"),
        ({"beta": 1.0}, r"beta: expected a share in \(0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(smooth, images, options, match):
    with pytest.raises(InputError, match=match):
        fab.fab(problem_of(smooth(), images(1), torch.zeros(1).long()), **options)


def test_missing_thresholds_are_refused(smooth, images):
    scorer, x, label = smooth(), images(1), torch.zeros(1).long()
    with pytest.raises(InputError, match=r"threshold: .*needs the image score"):
        fab.fab(problem_of(scorer, x, label, threshold=None))
    with pytest.raises(InputError, match="threshold: attack 'fab' needs the image score"):
        attack(scorer, x, label=label, attack="fab")
