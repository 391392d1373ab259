"""HopSkipJump: the nearest image across the threshold, from decisions alone."""

from __future__ import annotations

import math
from itertools import chain

import torch
from torch import Tensor

from robustad.attacks.boundary import Nearest, already_crossed, crossed, threshold_of
from robustad.attacks.pool import Pool, check_pool, offered
from robustad.attacks.problem import Problem
from robustad.attacks.projection import distance
from robustad.detectors.base import gaussian_blur
from robustad.errors import InputError

PURPOSE = 10_400
# Smallest change of a pixel that a probe makes: below it float32 would round decisions away.
FINEST = 2.0**-16
# Smallest relative width of an interval that is still halved, and of a jump.
NARROWEST = 2.0**-20
# Of the first probes around the start, as published.
FIRST_RADIUS = 0.1


@torch.no_grad()
def hopskipjump(
    problem: Problem,
    *,
    iterations: int = 50,
    queries: int | None = 10_000,
    probes: int = 100,
    trials: int = 100,
    pool: Pool | None = None,
    query_batch: int = 64,
) -> Tensor:
    """Answer the question of a fixed eps with the nearest image across the threshold.

    Parameters
    ----------
    problem : Problem
        In the l-infinity or l2 ball, with a threshold or a detector that decides itself.
    iterations, queries, probes, trials, pool, query_batch
        See `nearest`.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: the nearest image across the threshold, projected where it is outside;
        the clean image, and the flag `no_start`, where no image across it was found to start from.
        The flag `query_budget` says that an image ran out of queries before its last iteration.

    Raises
    ------
    InputError
        See `nearest`.
    """
    found = nearest(
        problem,
        iterations=iterations,
        queries=queries,
        probes=probes,
        trials=trials,
        pool=pool,
        query_batch=query_batch,
    )
    return problem.project(found.images.clone())


@torch.no_grad()
def nearest(
    problem: Problem,
    *,
    iterations: int = 50,
    queries: int | None = 10_000,
    probes: int = 100,
    trials: int = 100,
    pool: Pool | None = None,
    query_batch: int = 64,
) -> Nearest:
    """Look for the nearest image across the threshold, asking only on which side images are.

    Parameters
    ----------
    problem : Problem
        With a threshold or a detector that decides itself; `eps` is not looked at.
    iterations : int >= 1, default 50
        Each of a gradient estimate, a jump and a search for the boundary.
    queries : int or None, default 10000
        Forward passes per image that are not exceeded; None for no limit (about 25000 for 50
        iterations).
    probes : int >= 2, default 100
        Of the first gradient estimate; the t-th takes sqrt(t) times as many, up to 10000.
    trials : int >= 0, default 100
        Images of uniform noise that are tried to find a first one across the threshold.
    pool : Tensor, (M, 3, H, W), in [0, 1], or mapping of label to such tensors, optional
        Images tried before, the nearest first, one query each: of a mapping those of the other
        label, of a tensor all. Noise will rarely pass for normal. What another attack made, for
        instance on a surrogate, is a good start as well.
    query_batch : int >= 1, default 64
        Images in one call of the detector where queries do not wait for each other's answers.

    Returns
    -------
    Nearest
        Of all points seen.

    Raises
    ------
    InputError
        If there is no threshold, the norm is another, or an option is out of range.

    Notes
    -----
    Chen, Jordan and Wainwright, "HopSkipJumpAttack", IEEE S&P 2020, algorithm 2. Its first image
    is noise; between `pool` and noise we try ever stronger blurs of the image and its mean colour,
    which hide many defects, black and white. Their interval widths and probe radii (theta, delta),
    meant for small images, are kept above what float32 resolves.
    """
    _check(problem, iterations, queries, probes, trials, query_batch)
    check_pool(pool, tuple(problem.x.shape[1:]))
    done = already_crossed(problem)
    images = problem.x.clone()
    reach = torch.where(done, 0.0, torch.inf).to(images)
    places = (~done).nonzero().flatten()
    if len(places):
        active = problem.select(places)
        budget = torch.full((len(places),), -1 if queries is None else queries)
        attack = _Attack(active, budget, query_batch)
        found, current = attack.first(pool, trials)
        hit = found.nonzero().flatten()
        if len(hit) < len(places):
            problem.meter.flags.add("no_start")
        if len(hit):
            attack = attack.select(hit)
            best, length = attack.run(current[hit], iterations, probes)
            images[places[hit]], reach[places[hit]] = best, length
    return Nearest(images=images, distance=reach)


class _Attack:
    """State of the images that are not across the threshold by themselves."""

    def __init__(self, problem: Problem, budget: Tensor, query_batch: int) -> None:
        self.problem = problem
        self.budget = budget  # queries left, negative for no limit
        self.query_batch = query_batch
        self.generators = [problem.generator(i, PURPOSE) for i in range(len(problem))]
        self.size = problem.x[0].numel()
        power = 2.0 if problem.norm == "linf" else 1.5
        self.theta = max(self.size**-power, NARROWEST)

    def select(self, places: Tensor) -> _Attack:
        kept = _Attack(self.problem.select(places), self.budget[places.cpu()], self.query_batch)
        kept.generators = [self.generators[i] for i in places.tolist()]
        return kept

    def ask(self, images: Tensor, wanted: Tensor) -> Tensor:
        """Which of the wanted images are across; those out of budget are said not to be."""
        wanted = wanted & (self.budget != 0).to(wanted.device)
        answer = torch.zeros_like(wanted)
        places = wanted.nonzero().flatten()
        if len(places):
            part = self.problem.select(places)
            answer[places] = crossed(part, part.scores(images[places]).image)
            self.budget[places.cpu()] -= 1
        return answer

    def ask_all(self, images: Tensor, wanted: Tensor) -> Tensor:
        """As `ask` of images (K, B, 3, H, W), all in one call; their budgets are not looked at."""
        answer = torch.zeros_like(wanted)
        turns, places = wanted.nonzero(as_tuple=True)
        if len(places):
            part = self.problem.select(places)
            answer[turns, places] = crossed(part, part.scores(images[turns, places]).image)
            self.budget.index_add_(0, places.cpu(), torch.full((len(places),), -1))
        return answer

    def first(self, pool: Pool | None, trials: int) -> tuple[Tensor, Tensor]:
        """Find for each image one across the threshold; whether there was one, and which."""
        clean, label = self.problem.x, self.problem.label
        found = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        images = clean.clone()
        everybody = torch.ones_like(found)
        for candidates, there in chain(
            offered(pool, clean, label),
            ((plain, everybody) for plain in _plainer(clean)),
            ((self._noise(), everybody) for _ in range(trials)),
        ):
            across = self.ask(candidates, there & ~found)
            images[across] = candidates[across]
            found |= across
            if bool(found.all()):
                break
        return found, images

    def _noise(self) -> Tensor:
        clean = self.problem.x
        drawn = [torch.rand(clean.shape[1:], generator=one) for one in self.generators]
        return torch.stack(drawn).to(clean)

    def run(self, current: Tensor, iterations: int, probes: int) -> tuple[Tensor, Tensor]:
        """Walk along the boundary; the nearest image and its distance."""
        problem = self.problem
        best = current
        length = distance(best, problem.x, problem.norm)
        radius = torch.full_like(length, FIRST_RADIUS)
        current = self.bisect(current)
        best, length = self._nearer(current, best, length)
        for turn in range(1, iterations + 1):
            count = min(int(probes * math.sqrt(turn)), 10_000)
            reserve = 2 + round(-math.log2(NARROWEST))  # for the jump and the search after it
            limit = torch.where(self.budget < 0, count, (self.budget - reserve).clamp(0, count))
            going = (limit >= 2).to(current.device)
            if not bool(going.all()):
                problem.meter.flags.add("query_budget")
            if not bool(going.any()):
                break
            direction = self.estimate(current, radius, limit)
            current = torch.where(
                going[:, None, None, None], self.jump(current, direction, turn, going), current
            )
            current = self.bisect(current, going)
            best, length = self._nearer(current, best, length)
            share = self.theta * (self.size if problem.norm == "linf" else self.size**0.5)
            far = distance(current, problem.x, problem.norm)
            radius = (share * far).clamp_min(FINEST * self.size**0.5)
        return best, length

    def _nearer(self, images: Tensor, best: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        far = distance(images, self.problem.x, self.problem.norm)
        better = far < length
        return torch.where(better[:, None, None, None], images, best), torch.where(
            better, far, length
        )

    def bisect(self, images: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Nearest point across the threshold between the clean images and these, across it."""
        clean, norm = self.problem.x, self.problem.norm
        far = distance(images, clean, norm).double()
        low, high = torch.zeros_like(far), torch.ones_like(far)
        nearest = images
        wanted = torch.ones_like(far, dtype=torch.bool) if wanted is None else wanted
        while True:
            wanted = wanted & (high - low > self.theta) & (self.budget != 0).to(wanted.device)
            if not bool(wanted.any()):
                return nearest
            middle = (low + high) / 2
            if norm == "linf":
                reach = (middle * far).to(clean)[:, None, None, None]
                candidates = torch.clamp(images, clean - reach, clean + reach)
            else:
                share = middle.to(clean)[:, None, None, None]
                candidates = (1 - share) * clean + share * images
            across = self.ask(candidates, wanted)
            nearest = torch.where(across[:, None, None, None], candidates, nearest)
            high = torch.where(across, middle, high)
            low = torch.where(wanted & ~across, middle, low)

    def estimate(self, images: Tensor, radius: Tensor, count: Tensor) -> Tensor:
        """Unit step (B, 3, H, W) along which decisions around a point on the boundary turn."""
        total, weighted = torch.zeros_like(images), torch.zeros_like(images)
        votes = torch.zeros(len(images), device=images.device)
        reach = radius.to(images)[:, None, None, None]
        count = count.to(images.device)
        turns = int(count.max())
        at_once = max(self.query_batch // len(images), 1)
        for begun in range(0, turns, at_once):
            probes = torch.arange(begun, min(begun + at_once, turns), device=images.device)
            wanted = probes[:, None] < count
            drawn = torch.stack([self._directions(images, one) for one in wanted])
            moved = (images + reach * drawn).clamp_(0.0, 1.0)
            actual = (moved - images) / reach  # what is left of it in the box
            vote = torch.where(self.ask_all(moved, wanted), 1.0, -1.0) * wanted
            votes += vote.sum(dim=0)
            total += actual.sum(dim=0)
            weighted += (vote.to(images)[:, :, None, None, None] * actual).sum(dim=0)
        mean = votes / count.clamp_min(1)
        gradient = weighted - mean.to(images)[:, None, None, None] * total
        # where all agreed there is no contrast: along what was tried, or against it
        agreed = mean.abs() == 1
        plain = mean.to(images)[:, None, None, None] * total
        gradient = torch.where(agreed[:, None, None, None], plain, gradient)
        if self.problem.norm == "linf":
            return gradient.sign()
        length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        scale = length.clamp_min(torch.finfo(length.dtype).tiny)
        unit: Tensor = gradient / scale[:, None, None, None]
        return unit

    def _directions(self, images: Tensor, wanted: Tensor) -> Tensor:
        """Random directions of l2 length one; zero, and none drawn, where not wanted."""
        drawn = torch.zeros_like(images, device="cpu")
        for row, generator, draw in zip(drawn, self.generators, wanted.tolist(), strict=True):
            if draw:
                if self.problem.norm == "linf":
                    row.uniform_(-1, 1, generator=generator)
                else:
                    row.normal_(generator=generator)
                row /= torch.linalg.vector_norm(row)
        return drawn.to(images)

    def jump(self, current: Tensor, direction: Tensor, turn: int, wanted: Tensor) -> Tensor:
        """Step along the direction, halved until it ends across; without one, stay."""
        far = distance(current, self.problem.x, self.problem.norm)
        step = far / math.sqrt(turn)
        least = far * NARROWEST
        result = current
        while bool(wanted.any()):
            moved = (current + step[:, None, None, None] * direction).clamp_(0.0, 1.0)
            across = self.ask(moved, wanted)
            result = torch.where(across[:, None, None, None], moved, result)
            step = step / 2
            wanted = wanted & ~across & (step > least) & (self.budget != 0).to(wanted.device)
        return result


def _plainer(clean: Tensor) -> list[Tensor]:
    """Ever stronger blurs of images, their mean colour, black and white."""
    made, sigma = [], 1.0
    planes = clean.flatten(0, 1).unsqueeze(1)
    while 4 * sigma <= max(clean.shape[2:]):
        made.append(gaussian_blur(planes, sigma).reshape(clean.shape).clamp(0.0, 1.0))
        sigma *= 2
    mean = clean.mean(dim=(2, 3), keepdim=True).expand_as(clean)
    return [*made, mean, torch.zeros_like(clean), torch.ones_like(clean)]


def _check(
    problem: Problem,
    iterations: int,
    queries: int | None,
    probes: int,
    trials: int,
    query_batch: int,
) -> None:
    if problem.norm not in ("linf", "l2"):
        raise InputError(f"norm: HopSkipJump knows 'linf' and 'l2', got {problem.norm!r}")
    threshold_of(problem)
    for name, count, least in (
        ("iterations", iterations, 1),
        ("queries", 1 if queries is None else queries, 1),
        ("probes", probes, 2),
        ("trials", trials, 0),
        ("query_batch", query_batch, 1),
    ):
        if count < least:
            raise InputError(f"{name}: expected >= {least}, got {count}")
