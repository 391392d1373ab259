"""What an attack costs over the bare forward and backward passes of the model it attacks."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robustad.attacks.apgd import apgd
from robustad.attacks.momentum import mifgsm
from robustad.attacks.pgd import pgd
from robustad.attacks.problem import Problem
from robustad.detectors import PatchGuard
from robustad.networks import NetworkConfig

STEPS = 10
EPS = 8 / 255
# Name, network and batch: about as small as anybody attacks, and PatchGuard's own.
SMALL = NetworkConfig(body="vit_small_patch16_224", image_size=112, depth=3, embed_dim=192)
SIZES = {"vit 192 x 3, 112": (SMALL, 4), "vit_small_patch14 224": (NetworkConfig(), 8)}
CASES = [
    "vit 192 x 3, 112",
    pytest.param("vit_small_patch14 224", marks=pytest.mark.slow),
]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]
ATTACKS: dict[str, Callable[[Problem], Tensor]] = {
    "pgd": lambda problem: pgd(problem, steps=STEPS, keep="last"),
    "pgd, best kept": lambda problem: pgd(problem, steps=STEPS),
    "apgd": lambda problem: apgd(problem, steps=STEPS),
    "mifgsm": lambda problem: mifgsm(problem, steps=STEPS, keep="last"),
}
# Forward passes beyond one for each gradient.
MORE = {"pgd": 0, "pgd, best kept": 1, "apgd": 1, "mifgsm": 0}


class Case:
    def __init__(self, size: str, device: str) -> None:
        config, self.count = SIZES[size]
        torch.manual_seed(0)
        self.detector = PatchGuard(config).to(device)
        self.detector.requires_grad_(False)
        edge = config.image_size
        generator = torch.Generator().manual_seed(1)
        self.x = torch.rand(self.count, 3, edge, edge, generator=generator).to(device)
        self.label = (torch.arange(self.count) % 2).to(device)
        with torch.no_grad():
            self.clean = self.detector.patch_scores(self.x)
        self.mask = torch.zeros_like(self.clean, dtype=torch.bool)
        self.mask[1::2, :3] = True

    def problem(self) -> Problem:
        return Problem.of(
            self.detector, self.x, label=self.label, mask=self.mask, eps=EPS, clean=self.clean
        )

    def bare(self, more: int, steps: int = STEPS) -> Tensor:
        """The passes alone: no steps, no projection, nothing recorded."""
        gradient = self.x
        for _ in range(steps):
            leaf = self.x.detach().requires_grad_(True)
            score = self.detector.aggregate(self.detector.patch_scores(leaf))
            (gradient,) = torch.autograd.grad(score.sum(), leaf)
        with torch.no_grad():
            for _ in range(more):
                self.detector.aggregate(self.detector.patch_scores(self.x))
        return self.done(gradient)

    def attack(self, name: str) -> Tensor:
        return self.done(ATTACKS[name](self.problem()))

    def done(self, made: Tensor) -> Tensor:
        if made.is_cuda:
            torch.cuda.synchronize()
        return made

    def overhead(self, name: str, rounds: int) -> float:
        """Share by which the attack takes longer than its passes: medians of alternating runs."""
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for kept, run in zip(
                times,
                (lambda: self.attack(name), lambda: self.bare(MORE[name])),
                strict=True,
            ):
                start = time.perf_counter()
                run()
                kept.append(time.perf_counter() - start)
        mine, bare = (sorted(kept)[len(kept) // 2] for kept in times)
        return mine / bare - 1


@pytest.mark.parametrize("impl", ATTACKS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", CASES)
def test_attack(benchmark: Any, size: str, device: str, impl: str) -> None:
    case = Case(size, device)
    benchmark.group = f"{STEPS} attack steps, {size}, batch {case.count}, {device}"
    problem = case.problem()
    found = ATTACKS[impl](problem)
    assert problem.meter.backward.tolist() == [STEPS] * case.count
    assert problem.meter.forward.tolist() == [STEPS + MORE[impl]] * case.count
    assert float((found - case.x).abs().max()) <= EPS + 1e-6
    gain = (1 - 2 * case.label) * (case.detector(found) - case.detector.aggregate(case.clean))
    assert (gain > 0).all()
    benchmark.extra_info.update(items=case.count * STEPS, device=device)
    rounds = 15 if case.x.is_cuda else 7 if SIZES[size][0] is SMALL else 3
    if benchmark.enabled:  # a check without timing needs no more than the above
        benchmark.extra_info["overhead"] = case.overhead(impl, rounds)
        benchmark.pedantic(case.attack, (impl,), rounds=2)
    else:
        benchmark.pedantic(lambda: None)


@pytest.mark.parametrize("impl", ["bare passes"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", CASES)
def test_bare_passes(benchmark: Any, size: str, device: str, impl: str) -> None:
    case = Case(size, device)
    benchmark.group = f"{STEPS} attack steps, {size}, batch {case.count}, {device}"
    benchmark.extra_info.update(items=case.count * STEPS, device=device)
    leaf = case.x.detach().requires_grad_(True)
    expected = torch.autograd.grad(case.detector(leaf).sum(), leaf)[0]
    steps = STEPS if benchmark.enabled else 1
    assert torch.allclose(
        benchmark.pedantic(case.bare, (0, steps), rounds=2, warmup_rounds=1), expected
    )
