"""FAB: the nearest image across the threshold, by projections on the linearised boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from robustad.attacks.boundary import Nearest, already_crossed, crossed, threshold_of
from robustad.attacks.plane import Way, to_plane
from robustad.attacks.problem import Problem
from robustad.attacks.projection import distance
from robustad.errors import InputError

PURPOSE = 10_300


def fab(
    problem: Problem,
    *,
    iterations: int = 100,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    restarts: int = 1,
    search: int = 20,
) -> Tensor:
    """Answer the question of a fixed eps with the nearest image across the threshold.

    Parameters
    ----------
    problem : Problem
        With a threshold. Its objective is not looked at: FAB moves the image score.
    iterations, alpha_max, eta, beta, restarts, search
        See `nearest`.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: the nearest image across the threshold, or the same perturbation stretched
        to the ball's surface, whichever moves the score farther. Where the nearest one that was
        found is outside the ball, it is projected.

    Raises
    ------
    InputError
        See `nearest`.
    """
    found = nearest(
        problem,
        iterations=iterations,
        alpha_max=alpha_max,
        eta=eta,
        beta=beta,
        restarts=restarts,
        search=search,
    )
    scorer = problem.aimed("image")
    inside = problem.project(found.images.clone())
    length = distance(found.images, problem.x, problem.norm)
    factor = problem.eps / length.clamp_min(torch.finfo(length.dtype).tiny)
    factor = torch.where(length > 0, factor, torch.zeros_like(factor))[:, None, None, None]
    stretched = problem.project(problem.x + factor * (found.images - problem.x))
    farther = scorer.values(stretched) > scorer.values(inside)
    return torch.where(farther[:, None, None, None], stretched, inside)


def nearest(
    problem: Problem,
    *,
    iterations: int = 100,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    restarts: int = 1,
    search: int = 20,
) -> Nearest:
    """Look for the nearest image, in the problem's norm, on the other side of the threshold.

    Parameters
    ----------
    problem : Problem
        With a threshold. `eps` only bounds how far from the clean image restarts begin.
    iterations : int >= 1, default 100
        Projections a run: a backward and two forward passes each.
    alpha_max : float in [0, 1], default 0.1
        Largest share of the projection of the clean image in a step.
    eta : float >= 1, default 1.05
        How far a step overshoots the linearised boundary.
    beta : float in (0, 1), default 0.9
        An image across the threshold is drawn back to this share of its perturbation.
    restarts : int >= 1, default 1
        Runs; all but the first start at half the radius, in a random direction.
    search : int >= 0, default 20
        Bisections at the end of a run, between the clean image and the nearest one found:
        straight, and along the images that the box allows in the direction of its gradient.

    Returns
    -------
    Nearest
        Of all points seen.

    Raises
    ------
    InputError
        If there is no threshold or gradient, or an option is out of range.

    Notes
    -----
    Croce and Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary
    Attack", ICML 2020. With two classes there is one boundary, g = S - threshold. The final search
    along the box (our addition) makes the answer exact for scores linear in the pixels.
    """
    _check(problem, iterations, alpha_max, eta, beta, restarts, search)
    done = already_crossed(problem)
    images = problem.x.clone()
    reach = torch.where(done, 0.0, torch.inf).to(images)
    places = (~done).nonzero().flatten()
    if len(places):
        active = problem.aimed("image").select(places)
        best, length = active.x, reach[places]
        for run in range(restarts):
            current = active.x if run == 0 else _start(active, length, run)
            # a run of its own, searched to its end, so that more of them never do worse
            made, far = active.x.clone(), torch.full_like(length, torch.inf)
            for _ in range(iterations):
                current = _step(active, current, alpha_max, eta)
                made, far, across = _update(active, current, made, far)
                back = active.x + beta * (current - active.x)
                current = torch.where(across[:, None, None, None], back, current)
            hit = torch.isfinite(far).nonzero().flatten()
            if search and len(hit):
                near = active.select(hit)
                made[hit], far[hit] = _search(near, made[hit], far[hit], eta, search)
            nearer = far < length
            best = torch.where(nearer[:, None, None, None], made, best)
            length = torch.where(nearer, far, length)
        images[places], reach[places] = best, length
    return Nearest(images=images, distance=reach)


def _step(problem: Problem, current: Tensor, alpha_max: float, eta: float) -> Tensor:
    """Between the overshot projections of the current and of the clean image."""
    missing, gradient = _margin(problem, current)
    clean = problem.x
    back = (gradient.double() * (clean - current).double()).sum(dim=(1, 2, 3))
    here = to_plane(current, gradient, missing, problem.norm)
    home = to_plane(clean, gradient, missing - back, problem.norm)
    zero = torch.zeros_like(current)
    far_here, far_home = distance(here, zero, problem.norm), distance(home, zero, problem.norm)
    both = (far_here + far_home).clamp_min(torch.finfo(far_here.dtype).tiny)
    alpha = (far_here / both).clamp(max=alpha_max)[:, None, None, None]
    mixed = (1 - alpha) * (current + eta * here) + alpha * (clean + eta * home)
    return mixed.clamp_(0.0, 1.0)


def _margin(problem: Problem, images: Tensor) -> tuple[Tensor, Tensor]:
    """How much harm (B,), float64, is missing to the threshold, and the harm's gradient."""
    harm, gradient = problem.gradient(images)
    wanted = problem.sign.double() * threshold_of(problem)
    # A little more than all of it: a score on the threshold counts as anomalous.
    size = torch.maximum(harm.double().abs(), wanted.abs())
    rounding = torch.finfo(torch.float32).eps * size + torch.finfo(torch.float32).tiny
    return wanted - harm.double() + rounding, gradient


def _update(
    problem: Problem, images: Tensor, best: Tensor, length: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Take in candidates; which of them are across the threshold."""
    with torch.no_grad():
        across = crossed(problem, problem.scores(images).image)
    far = distance(images, problem.x, problem.norm)
    better = across & (far < length)
    return (
        torch.where(better[:, None, None, None], images, best),
        torch.where(better, far, length),
        across,
    )


def _search(
    problem: Problem, best: Tensor, length: Tensor, eta: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Bisect from the clean image to the nearest one, straight and then along the box."""
    full, clean = best, problem.x
    low = torch.zeros(len(problem), dtype=torch.float64, device=clean.device)
    high = torch.ones_like(low)
    for _ in range(steps):
        middle = (low + high) / 2
        images = clean + middle.to(clean)[:, None, None, None] * (full - clean)
        best, length, across = _update(problem, images, best, length)
        low, high = torch.where(across, low, middle), torch.where(across, middle, high)
    missing, gradient = _margin(problem, best)
    back = (gradient.double() * (clean - best).double()).sum(dim=(1, 2, 3))
    way = Way.of(clean, gradient, missing - back, problem.norm)
    low, high = torch.zeros_like(low), torch.ones_like(high)
    for step in range(steps + 1):
        middle = (low + high) / 2 if step else high
        images = (clean + way.move(middle * eta)).clamp_(0.0, 1.0)
        best, length, across = _update(problem, images, best, length)
        low, high = torch.where(across, low, middle), torch.where(across, middle, high)
    return best, length


def _start(problem: Problem, length: Tensor, run: int) -> Tensor:
    """Half way to the nearest image known, or to the ball's surface, in a random direction."""
    noise = torch.empty_like(problem.x, device="cpu")
    for place, row in enumerate(noise):
        generator = problem.generator(place, PURPOSE + run)
        if problem.norm == "linf":
            row.uniform_(-1, 1, generator=generator)
        else:
            row.normal_(generator=generator)
    noise = noise.to(problem.x)
    size = distance(noise, torch.zeros_like(noise), problem.norm)
    factor = 0.5 * length.clamp(max=problem.eps) / size
    return (problem.x + factor[:, None, None, None] * noise).clamp_(0.0, 1.0)


def _check(
    problem: Problem,
    iterations: int,
    alpha_max: float,
    eta: float,
    beta: float,
    restarts: int,
    search: int,
) -> None:
    threshold_of(problem)
    for name, count, least in (
        ("iterations", iterations, 1),
        ("restarts", restarts, 1),
        ("search", search, 0),
    ):
        if count < least:
            raise InputError(f"{name}: expected >= {least}, got {count}")
    if not 0 <= alpha_max <= 1:
        raise InputError(f"alpha_max: expected a share in [0, 1], got {alpha_max}")
    if not eta >= 1:
        raise InputError(f"eta: expected >= 1, got {eta}")
    if not 0 < beta < 1:
        raise InputError(f"beta: expected a share in (0, 1), got {beta}")
