import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from robustad.attacks.projection import (
    direction,
    distance,
    project,
    random_start,
    slack,
    sparse_direction,
)


def nearest_in_l1(point, centre, eps):
    """The threshold by bisection, in float64."""
    delta = (point - centre).double().flatten().numpy()
    room = np.where(delta > 0, 1 - centre.double().flatten().numpy(), centre.flatten().numpy())

    def kept(t):
        return np.minimum(np.maximum(np.abs(delta) - t, 0), room)

    t = 0.0
    if kept(0.0).sum() > eps:
        t = brentq(lambda t: kept(t).sum() - eps, 0, np.abs(delta).max(), xtol=1e-15)
    return centre.double().flatten().numpy() + np.sign(delta) * kept(t)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    eps=st.floats(1e-3, 60),
    reach=st.sampled_from([0.01, 0.5, 3.0, 100.0]),
    flat=st.booleans(),
)
def test_the_l1_projection_is_the_nearest_point_of_ball_and_box(seed, eps, reach, flat):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(2, 3, 4, 5, generator=generator)
    centre = centre.round() if flat else centre
    point = centre + reach * torch.randn(2, 3, 4, 5, generator=generator)
    if flat:  # equal entries make many breakpoints coincide
        point = (point * 2).round() / 2
    found = project(point, centre, eps, "l1")
    for i in range(2):
        expected = nearest_in_l1(point[i], centre[i], eps)
        assert np.allclose(found[i].flatten().numpy(), expected, atol=2e-6)
    assert (distance(found, centre, "l1") <= eps + slack(eps, "l1")).all()
    assert torch.allclose(project(found, centre, eps, "l1"), found, atol=1e-5)


def test_distances_in_l1(images):
    x, y = images(seed=0), images(seed=1)
    expected = (x - y).double().abs().flatten(1).sum(dim=1)
    assert torch.allclose(distance(x, y, "l1").double(), expected, rtol=1e-6)


def test_random_starts_fill_the_l1_ball_and_follow_each_images_seed():
    x = torch.full((400, 1, 1, 3), 0.5)
    found = random_start(x, 0.4, seeds=list(range(400)), norm="l1")
    alone = random_start(x[:1], 0.4, seeds=[17], norm="l1")
    assert torch.equal(alone[0], found[17])
    radii = distance(found, x, "l1").double().numpy() / 0.4
    assert radii.max() <= 1 + 1e-6
    # uniform in a ball of three dimensions: the radius cubed is uniform
    cubes = np.sort(radii**3)
    assert np.abs(cubes - np.linspace(0, 1, 400)).max() < 1.63 / 20  # Kolmogorov-Smirnov, 1%
    assert (found - x).mean(dim=0).abs().max() < 0.03
    assert ((found - x) > 0).float().mean(dim=0).sub(0.5).abs().max() < 0.1


@pytest.mark.parametrize(("norm", "order"), [("linf", torch.inf), ("l2", 2), ("l1", 1)])
def test_steps_have_length_one_and_none_without_a_gradient(images, norm, order):
    gradient = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gradient[1] = 0
    found = torch.linalg.vector_norm(direction(gradient, norm).flatten(1), ord=order, dim=1)
    assert torch.allclose(found, torch.tensor([1.0, 0.0, 1.0]))


def test_sparse_steps_move_the_largest_entries_that_the_box_leaves_free():
    gradient = torch.tensor([4.0, -3.0, 2.0, -1.0]).reshape(1, 1, 1, 4)
    half = torch.tensor([0.5])
    assert sparse_direction(gradient, half).flatten().tolist() == [0.5, -0.5, 0.0, 0.0]
    held = torch.tensor([True, False, False, False]).reshape(1, 1, 1, 4)
    found = sparse_direction(gradient, half, held).flatten().tolist()
    assert found == [0.5, -0.5, 0.5, 0.0]
    assert sparse_direction(gradient, torch.tensor([0.0])).flatten().tolist() == [1.0, 0, 0, 0]
