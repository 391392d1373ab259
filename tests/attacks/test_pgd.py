import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from torch import nn

from robustad.attacks.gradient import value_and_gradient
from robustad.attacks.pgd import fgsm, pgd
from robustad.attacks.projection import project, random_start
from robustad.errors import InputError

EPS = 8 / 255


class TwoClasses(nn.Module):
    """Logits (0, s) of an image score s: cross-entropy towards class 0 rises strictly with s."""

    def __init__(self, scorer):
        super().__init__()
        self.scorer = scorer

    def forward(self, x):
        score = self.scorer.aggregate(self.scorer.patch_scores(x))
        return torch.stack([torch.zeros_like(score), score], dim=1)


def image_loss(scorer):
    return lambda x: scorer.aggregate(scorer.patch_scores(x))


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize("step_size", [0.004, 2.5 * EPS])
def test_pgd_matches_torchattacks_step_for_step(maximising, smooth, images, steps, step_size):
    scorer, x = smooth(), images()
    theirs = torchattacks.PGD(
        TwoClasses(scorer), eps=EPS, alpha=step_size, steps=steps, random_start=False
    )
    expected = theirs(x, torch.zeros(4, dtype=torch.int64))
    problem = maximising(image_loss(scorer), x)
    ours = pgd(problem, steps=steps, step_size=step_size, keep="last")
    assert torch.allclose(ours, expected, atol=1e-6)
    assert not torch.allclose(ours, x, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_pgd_matches_foolbox_step_for_step(maximising, smooth, images, steps):
    scorer, x = smooth(seed=2), images(seed=2)
    model = foolbox.PyTorchModel(TwoClasses(scorer).eval(), bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.005, steps=steps, random_start=False)
    _, expected, _ = attack(model, x, torch.zeros(4, dtype=torch.int64), epsilons=EPS)
    problem = maximising(image_loss(scorer), x)
    ours = pgd(problem, steps=steps, step_size=0.005, keep="last")
    assert torch.allclose(ours, expected, atol=1e-6)


def test_fgsm_matches_torchattacks_and_is_one_step_of_eps(maximising, smooth, images):
    scorer, x = smooth(seed=1), images(seed=1)
    problem = maximising(image_loss(scorer), x)
    ours = fgsm(problem)
    theirs = torchattacks.FGSM(TwoClasses(scorer), eps=EPS)
    assert torch.allclose(ours, theirs(x, torch.zeros(4, dtype=torch.int64)), atol=1e-6)
    step = pgd(problem, steps=1, step_size=EPS, keep="last")
    assert torch.equal(ours, step)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("attack", [fgsm, lambda *a, **k: pgd(*a, **k, steps=7)])
def test_linear_scores_have_a_known_answer(maximising, linear, images, sign, attack):
    x = images()
    x[:, :, 0] = 0.0
    x[:, :, 1] = 1.0  # where the ball is cut off by [0, 1]
    scorer, weight = linear(x.shape[1:])
    found = attack(maximising(lambda image: sign * image_loss(scorer)(image), x))
    expected = (x + sign * EPS * weight.mean(dim=0).sign()).clamp(0, 1)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 4, 20])
@pytest.mark.parametrize("step_size", [None, 0.5])
def test_no_loss_falls_when_the_best_is_kept(maximising, smooth, images, steps, step_size):
    scorer, x = smooth(seed=3), images(16, seed=3)
    wavy = lambda image: torch.sin(40 * image_loss(scorer)(image))  # noqa: E731
    problem = maximising(wavy, x, eps=0.1)
    found = pgd(problem, steps=steps, step_size=step_size)
    with torch.no_grad():
        assert (wavy(found) >= wavy(x)).all()
    last = pgd(problem, steps=steps, step_size=step_size, keep="last")
    with torch.no_grad():
        assert (wavy(found) >= wavy(last) - 1e-6).all()
    assert float((found - x).abs().max()) <= 0.1 + 1e-6


def test_the_best_is_chosen_image_by_image(maximising, images):
    x = images(3, seed=5)
    # image 0 gains by any step, image 1 loses by any step, image 2 does not care
    gain = torch.tensor([1.0, -1.0, 0.0])
    loss = lambda image: gain * (image - x).abs().sum(dim=(1, 2, 3)) + 0 * image.sum()  # noqa: E731
    start = project(x + 0.02, x, 0.05)
    found = pgd(maximising(loss, x, eps=0.05), steps=3, start=start)
    distance = (found - x).abs().amax(dim=(1, 2, 3))
    assert float(distance[0]) == pytest.approx(0.05, abs=1e-6)
    assert float(distance[1]) < 0.02 + 1e-6
    assert torch.equal(found[2], start[2])


def test_the_start_is_projected(maximising, smooth, images):
    scorer, x = smooth(), images()
    problem = maximising(image_loss(scorer), x)
    found = pgd(problem, steps=1, step_size=1e-9, start=x + 3, keep="last")
    assert torch.allclose(found, (x + EPS).clamp(max=1), atol=1e-6)
    # also where the first iterate is the best one
    ramp = maximising(lambda image: image.sum(dim=(1, 2, 3)), x)
    best = pgd(ramp, steps=1, start=x + 3)
    assert torch.allclose(best, (x + EPS).clamp(max=1), atol=1e-6)


def test_the_default_step_is_two_and_a_half_eps_over_the_steps(maximising, images):
    x = images() * 0.5 + 0.25
    ramp = lambda image: image.sum(dim=(1, 2, 3))  # noqa: E731
    seen = []

    def watched(image):
        seen.append(float((image - x).detach().max()))
        return ramp(image)

    problem = maximising(watched, x, eps=0.1)
    seen.clear()
    pgd(problem, steps=5)
    assert seen == pytest.approx([0.0, 0.05, 0.1, 0.1, 0.1, 0.1], abs=1e-6)


def test_projection():
    centre = torch.tensor([0.0, 0.5, 0.98, 0.5])
    point = torch.tensor([-1.0, 0.7, 2.0, 0.52])
    expected = torch.tensor([0.0, 0.6, 1.0, 0.52])
    assert torch.allclose(project(point, centre, 0.1), expected)


def test_random_starts_follow_each_images_seed(images):
    x = images(4)
    together = random_start(x, EPS, seeds=[7, 8, 9, 10])
    apart = torch.cat([random_start(x[i : i + 1], EPS, seeds=[7 + i]) for i in range(4)])
    backwards = random_start(x.flip(0), EPS, seeds=[10, 9, 8, 7]).flip(0)
    assert torch.equal(together, apart)
    assert torch.equal(together, backwards)
    assert not torch.equal(together, random_start(x, EPS, seeds=[0, 8, 9, 10]))
    noise = (together - x)[(x > EPS) & (x < 1 - EPS)]
    assert float(noise.abs().max()) <= EPS + 1e-6
    assert abs(float(noise.mean())) < 0.1 * EPS * 3
    assert float(noise.std()) == pytest.approx(EPS / 3**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected >= 1, got 0"),
        ({"steps": 2, "step_size": 0.0}, "step_size: expected > 0, got 0"),
        ({"steps": 2, "step_size": -0.1}, "step_size: expected > 0, got -0.1"),
        ({"steps": 2, "step_size": float("nan")}, "step_size: expected > 0, got nan"),
        ({"steps": 2, "restarts": 0}, "restarts: expected >= 1, got 0"),
        ({"steps": 2, "keep": "worst"}, "keep: expected 'best' or 'last', got 'worst'"),
    ],
)
def test_pgd_refuses(maximising, smooth, images, options, message):
    with pytest.raises(InputError, match=message):
        pgd(maximising(image_loss(smooth()), images()), **options)


def test_gradients_are_of_each_image_alone(smooth, images):
    scorer, x = smooth(), images()
    values, gradient, largest = value_and_gradient(image_loss(scorer), x)
    for i in range(4):
        one, alone, _ = value_and_gradient(image_loss(scorer), x[i : i + 1])
        assert float(one) == pytest.approx(float(values[i]), abs=1e-6)
        assert torch.allclose(alone[0], gradient[i], atol=1e-6)
    assert largest == gradient.abs().amax(dim=(1, 2, 3)).tolist()
    assert not values.requires_grad
    assert not x.requires_grad


def test_gradients_are_taken_without_grad_mode_too(smooth, images):
    with torch.no_grad():
        _, gradient, _ = value_and_gradient(image_loss(smooth()), images())
    assert float(gradient.abs().max()) > 0


def test_losses_without_a_gradient_are_refused(images):
    x = images()
    parameter = torch.ones(4, requires_grad=True)
    for loss in (lambda image: image.detach().mean(dim=(1, 2, 3)), lambda image: 2 * parameter):
        with pytest.raises(InputError, match="detector: its patch scores carry no gradient"):
            value_and_gradient(loss, x)


def test_gradients_that_are_not_finite_are_refused(images):
    x = images()
    x[2, 0, 0, 0] = 0.0
    with pytest.raises(InputError, match=r"not finite for images \[2\] of the batch"):
        value_and_gradient(lambda image: image.sqrt().sum(dim=(1, 2, 3)), x)
    _, gradient, largest = value_and_gradient(
        lambda image: image.sqrt().sum(dim=(1, 2, 3)), x, lenient=True
    )
    assert np.isfinite(largest).tolist() == [True, True, False, True]
    assert float(gradient[2, 0, 0, 0]) == 0
    assert float(gradient[2, 0, 0, 1]) == pytest.approx(0.5 / float(x[2, 0, 0, 1]) ** 0.5)


@pytest.mark.parametrize("loss", [torch.sum, lambda x: x.mean(dim=(2, 3))])
def test_losses_are_one_an_image(images, loss):
    with pytest.raises(InputError, match=r"objective: expected one loss an image, \(4,\), got"):
        value_and_gradient(loss, images())
