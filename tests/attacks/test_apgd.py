import pytest
import torch
import torchattacks
from torch import nn

from robustad.attacks import attack
from robustad.attacks.apgd import apgd, checkpoints, shrinking
from robustad.attacks.pgd import pgd
from robustad.attacks.projection import distance, slack
from robustad.errors import InputError


class TwoClasses(nn.Module):
    """Logits (0, s - t) of an image score s: class 1 above the threshold t."""

    def __init__(self, scorer, threshold=0.0):
        super().__init__()
        self.scorer = scorer
        self.threshold = threshold

    def forward(self, x):
        score = self.scorer.aggregate(self.scorer.patch_scores(x)) - self.threshold
        return torch.stack([torch.zeros_like(score), score], dim=1)


def image_loss(scorer):
    return lambda x: scorer.aggregate(scorer.patch_scores(x))


def best_of_linear(x, weight, eps, norm):
    """What moves a linear score farthest, in closed form."""
    weight = weight.double()
    if norm == "linf":
        return (x + eps * weight.sign()).clamp(0, 1)
    if norm == "l2":  # where the box is out of reach
        return x + eps * weight / weight.norm()
    made = x.double().clone()
    for image in made:  # the budget goes to the largest weights, as far as the box lets it
        left = eps
        for place in weight.abs().flatten().argsort(descending=True).tolist():
            up = float(weight.flatten()[place]) > 0
            value = float(image.flatten()[place])
            step = min(left, 1 - value if up else value)
            image.view(-1)[place] += step if up else -step
            left -= step
    return made


@pytest.mark.parametrize("run", ["apgd100", "pgd100"])
@pytest.mark.parametrize(
    ("norm", "eps"), [("linf", 8 / 255), ("linf", 0.3), ("l2", 0.4), ("l1", 0.2), ("l1", 5.0)]
)
def test_linear_scores_have_a_known_answer(linear, images, run, norm, eps):
    x = images() * 0.5 + 0.25 if norm == "l2" else images()
    scorer, weight = linear(x.shape[1:])
    label = torch.tensor([0, 1, 0, 1])
    name = run if norm == "linf" else f"{run}_{norm}"
    found = attack(scorer, x, label=label, attack=name, eps=eps)
    for i, y in enumerate(label.tolist()):
        best = best_of_linear(x[i : i + 1], (1 - 2 * y) * weight.mean(dim=0), eps, norm)
        expected = float(scorer.aggregate(scorer.patch_scores(best)))
        assert float(found.score[i]) == pytest.approx(expected, abs=1e-5)
        assert float(found.worst_score[i]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])  # torchattacks has no APGD in l1
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_weaker_than_torchattacks_on_the_same_budget(smooth, images, norm, seed):
    """Losses after as many gradient steps; theirs starts at a random point, ours at the image."""
    scorer, x = smooth(seed=seed), images(16, seed=seed)
    eps = 0.1 if norm == "linf" else 0.8
    # a threshold that about half of the images can be pushed across
    pushed = pgd(_problem(scorer, x, eps, norm), steps=50)
    with torch.no_grad():
        threshold = float(image_loss(scorer)(pushed).median())
        assert float((image_loss(scorer)(x) < threshold).float().mean()) > 0.7
    model = TwoClasses(scorer, threshold)
    theirs = torchattacks.APGD(
        model, norm="Linf" if norm == "linf" else "L2", eps=eps, steps=30, n_restarts=1, seed=0
    )
    peer = theirs(x, torch.zeros(16, dtype=torch.int64))
    ours = apgd(_problem(scorer, x, eps, norm), steps=30)
    with torch.no_grad():
        success = [float((image_loss(scorer)(z) >= threshold).float().mean()) for z in (ours, peer)]
    assert success[0] >= success[1]
    assert success[0] > 0


def _problem(scorer, x, eps, norm):
    from robustad.attacks.problem import Problem

    label = torch.zeros(len(x), dtype=torch.int64)
    return Problem.of(scorer, x, label=label, eps=eps, norm=norm)


def test_checkpoints_are_the_published_ones():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_step_sizes_halve_where_a_step_overshoots(maximising, images, norm):
    """A peak inside the ball: steps of 2 eps only jump over it."""
    x = images(6) * 0.5 + 0.25
    eps = {"linf": 0.1, "l2": 0.5}[norm]
    goal = x.clone()
    goal[:, 0, 0, 0] += 0.03
    peak = maximising(
        lambda image: -((image - goal) ** 2).sum(dim=(1, 2, 3)), x, eps=eps, norm=norm
    )
    found = apgd(peak, steps=100)
    assert float((found - goal).abs().max()) < 0.003
    fixed = pgd(peak, steps=100, step_size=2 * eps)
    assert (peak.values(found) > peak.values(fixed)).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_restarts_and_starts_never_weaken_it(smooth, maximising, images, norm):
    scorer, x = smooth(seed=3), images(8, seed=3)
    wavy = lambda image: torch.sin(40 * image_loss(scorer)(image))  # noqa: E731
    eps = {"linf": 0.1, "l2": 1.0, "l1": 8.0}[norm]
    problem = maximising(wavy, x, eps=eps, norm=norm)
    values = [problem.values(apgd(problem, steps=10, restarts=n)) for n in (1, 2, 4)]
    assert (values[0] >= problem.values(x)).all()
    assert (values[1] >= values[0] - 1e-6).all()
    assert (values[2] >= values[1] - 1e-6).all()
    assert (values[2] > values[0] + 1e-6).any()
    found = apgd(problem, steps=10, start=x + 3, keep="last")
    assert (distance(found, x, norm) <= eps + slack(eps, norm)).all()


def test_it_costs_a_gradient_a_step_and_one_pass_more(smooth, maximising, images):
    problem = maximising(image_loss(smooth()), images())
    apgd(problem, steps=17, restarts=2)
    assert problem.meter.backward.tolist() == [2 * 17] * 4
    assert problem.meter.forward.tolist() == [2 * 18] * 4


def test_a_shrinking_ball_ends_in_the_one_that_counts(smooth, maximising, images):
    x = images(4) * 0.2 + 0.4
    problem = maximising(image_loss(smooth()), x, eps=0.05)
    widest = []
    loss = problem.detector.score

    def watched(image):
        widest.append(float((image - x).detach().abs().max()))
        return loss(image)

    problem.detector.score = watched
    found = shrinking(problem, steps=20)
    assert max(widest) == pytest.approx(0.1, abs=1e-6)
    assert float((found - x).abs().max()) <= 0.05 + 1e-6
    assert float((problem.worst() - x).abs().max()) <= 0.05 + 1e-6
    assert problem.meter.backward.tolist() == [20] * 4
    with pytest.raises(InputError, match="steps: expected >= 3, one a stage, got 2"):
        shrinking(problem, steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected >= 1, got 0"),
        ({"step_size": 0.0}, "step_size: expected > 0, got 0"),
        ({"restarts": 0}, "restarts: expected >= 1, got 0"),
        ({"keep": "first"}, "keep: expected 'best' or 'last', got 'first'"),
    ],
)
def test_it_refuses(smooth, maximising, images, options, message):
    with pytest.raises(InputError, match=message):
        apgd(maximising(image_loss(smooth()), images()), **options)
