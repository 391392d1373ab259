import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustad.attacks import attack
from robustad.attacks.pgd import pgd
from robustad.attacks.projection import distance, project, random_start
from robustad.errors import InputError


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


def length(x):
    return x.flatten(1).norm(dim=1)


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize("step_size", [0.05, 0.7])
def test_matches_torchattacks_step_for_step(maximising, smooth, images, steps, step_size):
    scorer, x = smooth(), images()
    theirs = torchattacks.PGDL2(
        TwoClasses(scorer), eps=0.5, alpha=step_size, steps=steps, random_start=False
    )
    expected = theirs(x, torch.zeros(4, dtype=torch.int64))
    problem = maximising(image_loss(scorer), x, eps=0.5, norm="l2")
    ours = pgd(problem, steps=steps, step_size=step_size, keep="last")
    # theirs adds 1e-10 to a cross-entropy's norm, and both round in float32
    assert torch.allclose(ours, expected, atol=1e-5)
    assert not torch.allclose(ours, x, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_matches_foolbox_step_for_step(maximising, smooth, images, steps):
    scorer, x = smooth(seed=2), images(seed=2)
    model = foolbox.PyTorchModel(TwoClasses(scorer).eval(), bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.L2PGD(abs_stepsize=0.2, steps=steps, random_start=False)
    _, expected, _ = theirs(model, x, torch.zeros(4, dtype=torch.int64), epsilons=0.5)
    problem = maximising(image_loss(scorer), x, eps=0.5, norm="l2")
    ours = pgd(problem, steps=steps, step_size=0.2, keep="last")
    assert torch.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["pgd1_l2", "pgd10_l2", "pgd50_l2"])
def test_linear_scores_have_a_known_answer(linear, images, name):
    """Where the box is far away, the best point lies eps along the gradient."""
    x = images() * 0.5 + 0.25
    scorer, weight = linear(x.shape[1:])
    label = torch.tensor([0, 1, 0, 1])
    found = attack(scorer, x, label=label, attack=name, eps=0.4)
    direction = weight.mean(dim=0) / weight.mean(dim=0).norm()
    sign = torch.where(label == 0, 1.0, -1.0)[:, None, None, None]
    assert torch.allclose(found.x_adv, x + 0.4 * sign * direction, atol=1e-5)
    assert torch.allclose(found.distance, torch.full((4,), 0.4), atol=1e-5)
    gain = (found.score - found.clean_score).abs()
    assert torch.allclose(gain, 0.4 * weight.mean(dim=0).norm().expand(4), rtol=1e-4)


def test_flip_of_a_linear_scorer_has_a_known_answer(linear, images):
    x = images(2) * 0.5 + 0.25
    scorer, weight = linear(x.shape[1:], patches=4)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    found = attack(scorer, x, label=torch.tensor([1, 1]), mask=mask, attack="pgd5_l2_flip", eps=0.3)
    directions = [weight[:2].mean(dim=0) - weight[2:].mean(dim=0), -weight.mean(dim=0)]
    for image, adversarial, direction in zip(x, found.x_adv, directions, strict=True):
        expected = image + 0.3 * direction / direction.norm()
        assert torch.allclose(adversarial, expected, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    eps=st.floats(1e-4, 30),
    reach=st.floats(0, 100),
    flat=st.booleans(),
)
def test_projection_keeps_both_bounds(seed, eps, reach, flat):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(3, 3, 4, 5, generator=generator)
    centre = centre.round() if flat else centre
    point = centre + reach * torch.randn(3, 3, 4, 5, generator=generator)
    found = project(point, centre, eps, "l2")
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert (length(found - centre) <= eps * (1 + 1e-5) + 1e-5).all()
    # what is allowed already stays
    again = project(found, centre, eps, "l2")
    assert torch.allclose(again, found, atol=1e-6)


def test_inside_the_box_the_projection_is_the_nearest_point():
    centre = torch.full((2, 1, 1, 2), 0.5)
    point = torch.tensor([[0.8, 0.9], [0.5, 0.55]]).reshape(2, 1, 1, 2)
    found = project(point, centre, 0.25, "l2")
    assert torch.allclose(found.flatten(1), torch.tensor([[0.65, 0.7], [0.5, 0.55]]))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_tiny_and_huge_gradients_make_steps_of_the_same_length(maximising, images, scale):
    x = images(2) * 0.5 + 0.25
    ramp = lambda image: scale * image[:, :, :2].sum(dim=(1, 2, 3))  # noqa: E731
    problem = maximising(ramp, x, eps=0.1, norm="l2")
    found = pgd(problem, steps=1, step_size=0.05, keep="last")
    expected = 0.0 if scale == 0 else 0.05
    assert length(found - x).tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_no_loss_falls_when_the_best_is_kept(maximising, smooth, images):
    scorer, x = smooth(seed=3), images(8, seed=3)
    wavy = lambda image: torch.sin(40 * image_loss(scorer)(image))  # noqa: E731
    found = pgd(maximising(wavy, x, eps=1.0, norm="l2"), steps=5)
    with torch.no_grad():
        assert (wavy(found) >= wavy(x)).all()
    assert (length(found - x) <= 1.0 + 1e-5).all()


def test_random_starts_fill_the_ball_and_follow_each_images_seed():
    x = torch.full((400, 1, 1, 3), 0.5)
    seeds = list(range(400))
    found = random_start(x, 0.4, seeds=seeds, norm="l2")
    alone = random_start(x[:1], 0.4, seeds=[17], norm="l2")
    assert torch.equal(alone[0], found[17])
    radii = length(found - x).double().numpy() / 0.4
    assert radii.max() <= 1 + 1e-6
    # uniform in a ball of three dimensions: the radius cubed is uniform
    cubes = np.sort(radii**3)
    assert np.abs(cubes - np.linspace(0, 1, 400)).max() < 1.63 / 20  # Kolmogorov-Smirnov, 1%
    assert (found - x).mean(dim=0).abs().max() < 0.05


def test_distances(images):
    x, y = images(seed=0), images(seed=1)
    difference = (x - y).double().flatten(1).numpy()
    assert np.allclose(distance(x, y, "l2"), np.linalg.norm(difference, axis=1), atol=1e-5)
    assert np.allclose(distance(x, y), np.abs(difference).max(axis=1))


def test_an_l2_radius_may_exceed_one(smooth, images):
    scorer, x = smooth(), images()
    label = torch.zeros(4, dtype=torch.int64)
    found = attack(scorer, x, label=label, attack="pgd5_l2", eps=3.0, random=True)
    assert 1.0 < float(found.distance.max()) <= 3.0 + 1e-5
    for eps in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"eps: expected a finite l2 radius > 0"):
            attack(scorer, x, label=label, attack="pgd5_l2", eps=eps)
    with pytest.raises(
        InputError, match=r"eps: expected a fraction of the pixel range in \(0, 1\]"
    ):
        attack(scorer, x, label=label, attack="pgd5", eps=1.5)
