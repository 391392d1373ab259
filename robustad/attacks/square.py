"""Square attack: random search with square windows, from scores alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from robustad.attacks.boundary import crossed
from robustad.attacks.objectives import Scores
from robustad.attacks.problem import Problem
from robustad.errors import InputError

# Of 10,000 queries: after each the windows' share of the pixels is halved.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
PURPOSE = 10_100
# Gives the candidates of a step: current images, side of the window, uniform numbers (B, 7).
Propose = Callable[[Tensor, int, Tensor], Tensor]


@torch.no_grad()
def square(problem: Problem, *, queries: int = 5000, p: float = 0.8, stop: bool = False) -> Tensor:
    """Change one random window at a time, and keep what the score says was worth it.

    Parameters
    ----------
    problem : Problem
        Its objective needs no gradient; the published attack takes `image`.
    queries : int >= 1, default 5000
        Forward passes per image; exactly as many are made.
    p : float in (0, 1], default 0.8
        Share of the pixels in the first windows; halved on the published schedule.
    stop : bool, default False
        Stop asking about an image that has crossed the threshold. Without it the score is pushed
        on, as figures over all thresholds (AUROC) need.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: the candidate of highest objective; the clean image where none does
        better, which takes no query to know.

    Raises
    ------
    InputError
        If an option is out of range, or `stop` has no threshold.

    Notes
    -----
    Andriushchenko et al., "Square Attack", ECCV 2020: algorithm 2 with vertical stripes as the
    start for l-infinity, algorithm 3 with a grid of pyramids for l2; the schedule of their
    published code, which halves once more (at 500) than the paper says. In l1 as in l2, with
    candidates as many times too large as there are channels before they are projected, as in the
    code of "Mind the Box" (Croce and Hein, ICML 2021).
    """
    if queries < 1:
        raise InputError(f"queries: expected >= 1, got {queries}")
    if not 0 < p <= 1:
        raise InputError(f"p: expected a share of the pixels in (0, 1], got {p}")
    generators = [problem.generator(place, PURPOSE) for place in range(len(problem))]
    search = _Linf() if problem.norm == "linf" else _Pyramids(1 if problem.norm == "l1" else 2)
    shape = problem.x.shape[1:]
    start = torch.stack([search.start(generator, shape) for generator in generators])
    draws = torch.stack([torch.rand(queries, 7, generator=one) for one in generators])
    height, width = shape[1:]
    best = problem.project(search.first(problem, start.to(problem.x)))
    active, values = problem, torch.empty(0)
    places = torch.arange(len(problem), device=problem.x.device)
    images, result = best, problem.x.clone()
    reached = _of_clean(problem)

    def keep_better() -> None:
        better = values > reached[places]
        result[places[better]], reached[places[better]] = images[better], values[better]

    for query in range(queries):
        if query == 0:
            candidates = images
        else:
            side = search.side(share(query, queries, p), height, width)
            candidates = search.propose(active, images, side, draws[places.cpu(), query].to(images))
        scores = active.scores(candidates, progress=query / queries)
        found = active.objective(scores)
        better = found > values if query else torch.ones_like(found, dtype=torch.bool)
        values = torch.where(better, found, values) if query else found
        images = torch.where(better[:, None, None, None], candidates, images)
        if stop:
            done = crossed(active, scores.image) & better
            if bool(done.any()):
                keep_better()
                keep = ~done
                if not bool(keep.any()):
                    return result
                active, places = active.select(keep), places[keep]
                images, values = images[keep], values[keep]
    keep_better()
    return result


def _of_clean(problem: Problem) -> Tensor:
    """Objective (B,) of the clean images, whose patch scores are known."""
    scores = Scores(
        patch=problem.clean,
        image=problem.detector.aggregate(problem.clean),
        label=problem.label,
        mask=problem.mask,
        clean=problem.clean,
        scale=problem.scale,
        top=problem.top,
    )
    return problem.objective(scores).clone()


def share(query: int, queries: int, p: float) -> float:
    """Share of the pixels in the window of one query, the first (the start) being query 0."""
    at = int(query / queries * 10_000)
    return p / 2.0 ** sum(at > halving for halving in HALVINGS)


def _corner(draw: Tensor, size: int, side: int) -> Tensor:
    """First row or column (B,) of a window, uniform over where it fits."""
    return (draw * (size - side + 1)).long().clamp_(max=size - side)


class _Linf:
    """Algorithm 2: all pixels of a window get one corner of the colour cube of side 2 eps."""

    @staticmethod
    def start(generator: torch.Generator, shape: torch.Size) -> Tensor:
        """Signs (3, H, W), equal along each column."""
        channels, _, width = shape
        signs = torch.randint(0, 2, (channels, 1, width), generator=generator) * 2 - 1
        return signs.float().expand(shape)

    @staticmethod
    def first(problem: Problem, start: Tensor) -> Tensor:
        return problem.x + problem.eps * start

    @staticmethod
    def side(part: float, height: int, width: int) -> int:
        return min(max(round(math.sqrt(part * height * width)), 1), height, width)

    @staticmethod
    def propose(problem: Problem, images: Tensor, side: int, draws: Tensor) -> Tensor:
        channels, height, width = images.shape[1:]
        window = _window(draws, side, height, width)
        # One of the 2^C corners; where that changes nothing, one of the others.
        corner = (draws[:, 2] * 2**channels).long().clamp_(max=2**channels - 1)
        other = 1 + (draws[:, 3] * (2**channels - 1)).long().clamp_(max=2**channels - 2)
        made = problem.project(torch.where(window, _at(problem, corner), images))
        same = (made == images).flatten(1).all(dim=1)
        if bool(same.any()):
            corner = torch.where(same, corner ^ other, corner)
            made = problem.project(torch.where(window, _at(problem, corner), images))
        return made


def _at(problem: Problem, corner: Tensor) -> Tensor:
    """Clean images moved by eps up or down in each channel, as the bits of `corner` (B,) say."""
    bits = torch.arange(problem.x.shape[1], device=corner.device)
    signs = ((corner[:, None] >> bits) & 1) * 2 - 1
    return problem.x + problem.eps * signs.to(problem.x)[:, :, None, None]


def _window(draws: Tensor, side: int, height: int, width: int) -> Tensor:
    """Mask (B, 1, H, W) of a window from two uniform numbers."""
    row, column = _corner(draws[:, 0], height, side), _corner(draws[:, 1], width, side)
    down = torch.arange(height, device=draws.device) - row[:, None]
    across = torch.arange(width, device=draws.device) - column[:, None]
    inside_rows, inside_columns = (down >= 0) & (down < side), (across >= 0) & (across < side)
    return (inside_rows[:, :, None] & inside_columns[:, None, :]).unsqueeze(1)


class _Pyramids:
    """Algorithm 3: a window takes the perturbation of another one, in the shape of two pyramids."""

    def __init__(self, power: int) -> None:
        self.power = power  # of the norm, l1 or l2

    def start(self, generator: torch.Generator, shape: torch.Size) -> Tensor:
        """A grid of five tiles along the shorter edge, each of random sign and orientation."""
        channels, height, width = shape
        side = max(min(height, width) // 5, 1)
        grid = torch.zeros(shape)
        for row in range((height % side) // 2, height - side + 1, side):
            for column in range((width % side) // 2, width - side + 1, side):
                turned = bool(torch.rand((), generator=generator) < 0.5)
                signs = torch.randint(0, 2, (channels, 1, 1), generator=generator) * 2 - 1
                tile = _pyramids(side, self.power)
                grid[:, row : row + side, column : column + side] = signs * (
                    tile.T if turned else tile
                )
        grid /= torch.linalg.vector_norm(grid, ord=self.power)
        return grid

    def first(self, problem: Problem, start: Tensor) -> Tensor:
        return problem.x + self._excess(start) * problem.eps * start

    def _excess(self, images: Tensor) -> int:
        """How many times too large candidates are before they are projected."""
        return images.shape[1] if self.power == 1 else 1

    def side(self, part: float, height: int, width: int) -> int:
        side = max(round(math.sqrt(part * height * width)), 3)
        return min(side + 1 - side % 2, height, width)  # odd: a pyramid has one top

    def propose(self, problem: Problem, images: Tensor, side: int, draws: Tensor) -> Tensor:
        channels, power = images.shape[1], self.power
        delta = images - problem.x
        sizes = delta.abs() if power == 1 else delta.square()
        unused = (problem.eps**power - sizes.sum(dim=(1, 2, 3))).clamp_min(0)
        target = _index(draws[:, 0], draws[:, 1], side, images)
        source = _index(draws[:, 2], draws[:, 3], side, images)
        emptied = delta.clone()
        emptied[target] = 0
        emptied[source] = 0
        left = emptied.abs() if power == 1 else emptied.square()
        taken = (sizes - left).sum(dim=(2, 3)).clamp_min(0)
        available = (taken + unused[:, None] / channels) ** (1 / power)
        # The signs of up to 2^C channels come of one number, the orientation of another.
        bits = torch.arange(channels, device=images.device)
        corner = (draws[:, 4] * 2**channels).long().clamp_(max=2**channels - 1)
        signs = (((corner[:, None] >> bits) & 1) * 2 - 1).to(images)[:, :, None, None]
        shape = _pyramids(side, power).to(images)
        turned = (draws[:, 5] < 0.5)[:, None, None]
        shape = torch.where(turned, shape.T, shape)[:, None]
        moved = signs * shape + self._unit(delta[target])
        emptied[target] = self._excess(images) * available[:, :, None, None] * self._unit(moved)
        return problem.project(problem.x + emptied)

    def _unit(self, windows: Tensor) -> Tensor:
        """Each channel scaled to length one; zero where it is."""
        length = torch.linalg.vector_norm(windows, ord=self.power, dim=(2, 3), keepdim=True)
        unit: Tensor = windows / length.clamp_min(torch.finfo(windows.dtype).tiny)
        return unit


def _index(row: Tensor, column: Tensor, side: int, images: Tensor) -> tuple[Tensor, ...]:
    """What selects one window (B, C, side, side) of each image."""
    count, channels, height, width = images.shape
    steps = torch.arange(side, device=images.device)
    rows = _corner(row, height, side)[:, None] + steps
    columns = _corner(column, width, side)[:, None] + steps
    return (
        torch.arange(count, device=images.device)[:, None, None, None],
        torch.arange(channels, device=images.device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    )


@cache
def _pyramids(side: int, power: int) -> Tensor:
    """Two pyramids of opposite sign side by side (side, side), of length one; equation 3."""
    half = side // 2
    made = torch.cat([_pyramid(half, side), -_pyramid(side - half, side)])
    made /= torch.linalg.vector_norm(made, ord=power)
    return made


def _pyramid(height: int, width: int) -> Tensor:
    """Sum of 1 / (k + 1)^2 over the rings k from a pixel's own to the outermost."""
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(down[:, None], across)
    steps = 1.0 / torch.arange(1, max(height, width) // 2 + 2).square()
    return steps.flip(0).cumsum(0).flip(0)[ring]
