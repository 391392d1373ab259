"""What certification costs over the bare passes of the network that scores the noisy copies.

One image, 1000 copies, against the backbone alone and against the whole detector on as many images
in batches of the same size, half of them before and half after. `throughput_of_backbone` is the
share of its images per second that certification reaches: the median of the rounds.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from robustad.backbones import create
from robustad.certificates import median_intervals, noisy_scores
from robustad.certificates.noise import content_seed, noisy_batches
from robustad.detectors import AnomalyDINO, Detector, PatchGuard
from robustad.networks import NetworkConfig

SIGMA, RADII = 0.25, [16 / 255, 32 / 255, 64 / 255, 128 / 255]
BATCH = 64
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]


def memory_bank(name: str, size: int) -> tuple[Detector, Callable[[Tensor], Any]]:
    torch.manual_seed(0)
    backbone = create(name, None if name == "filters" else "random")
    detector = AnomalyDINO(backbone, image_size=size)
    generator = torch.Generator().manual_seed(1)
    detector.fit(torch.rand(4, 3, size, size, generator=generator).split(1))
    return detector, detector.backbone


def network(size: int) -> tuple[Detector, Callable[[Tensor], Any]]:
    torch.manual_seed(0)
    config = NetworkConfig(body="vit_small_patch16_224", image_size=size, depth=6)
    detector = PatchGuard(config)
    return detector, detector.network


# Name, what it builds, copies.
SIZES: dict[str, tuple[Callable[[], tuple[Detector, Callable[[Tensor], Any]]], int, int]] = {
    "resnet18, 64 pixels": (lambda: memory_bank("resnet18", 64), 64, 128),
    "resnet18, 224 pixels": (lambda: memory_bank("resnet18", 224), 224, 1000),
    "filters, 224 pixels": (lambda: memory_bank("filters", 224), 224, 1000),
    "dinov2 small, 224 pixels": (lambda: memory_bank("vit_small_patch14_dinov2", 224), 224, 1000),
    "PatchGuard, 224 pixels": (lambda: network(224), 224, 1000),
}
CASES = [
    pytest.param(name, marks=pytest.mark.slow) if copies == 1000 else name
    for name, (_, _, copies) in SIZES.items()
]


class Case:
    def __init__(self, name: str, device: str) -> None:
        build, size, self.copies = SIZES[name]
        self.detector, self.backbone = build()
        self.detector.to(device).requires_grad_(False)
        generator = torch.Generator().manual_seed(2)
        self.x = torch.rand(1, 3, size, size, generator=generator).to(device)
        self.many = torch.rand(BATCH, 3, size, size, generator=generator).to(device)

    @torch.no_grad()
    def passes(self, run: Callable[[Tensor], Any]) -> float:
        """Seconds of half as many images as copies, in batches of the same size."""
        start = time.perf_counter()
        for first in range(0, self.copies // 2, BATCH):
            run(self.many[: min(BATCH, self.copies // 2 - first)])
        self.wait()
        return time.perf_counter() - start

    def certify(self) -> Any:
        scores = noisy_scores(self.detector, self.x, sigma=SIGMA, n=self.copies, batch_size=BATCH)
        return median_intervals(scores.cpu().numpy(), RADII, sigma=SIGMA)

    def wait(self) -> None:
        if self.x.is_cuda:
            torch.cuda.synchronize()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_certify_one_image(benchmark: Any, name: str, device: str) -> None:
    case = Case(name, device)
    benchmark.group = f"certify one image, {case.copies} copies, {name}, {device}"
    networks = {"backbone": case.backbone, "detector": case.detector}
    for run in networks.values():  # memory and threads are there from here on
        run(case.many)
    bare: dict[str, list[float]] = {key: [] for key in networks}

    def passes() -> None:
        for key, run in networks.items():
            bare[key].append(case.passes(run))

    rounds = 5 if case.copies < 1000 else 1
    ends = benchmark.pedantic(case.certify, setup=passes, rounds=rounds)
    passes()
    assert (ends.lower[:, :2] < ends.upper[:, :2]).all()
    benchmark.extra_info.update(items=case.copies, device=device)
    if benchmark.stats is None:  # timing is switched off
        return
    for key, found in bare.items():
        both = [before + after for before, after in pairwise(found)]
        share = [one / ours for one, ours in zip(both, benchmark.stats.stats.data, strict=True)]
        benchmark.extra_info[f"throughput_of_{key}"] = median(share)


@pytest.mark.parametrize("device", DEVICES)
def test_noise_alone(benchmark: Any, device: str) -> None:
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    benchmark.group = f"256 noisy copies, 224 pixels, {device}"

    def draw() -> Tensor:
        seeds = [content_seed(x[0])]
        batches = noisy_batches(x, sigma=SIGMA, draws=range(256), seeds=seeds, batch_size=BATCH)
        for _, copies in batches:
            last = copies.clamp_(0, 1)
        return last

    copies = benchmark.pedantic(draw, rounds=3, warmup_rounds=1)
    assert 0.1 < float((copies - x).std()) < SIGMA
    benchmark.extra_info.update(items=256, device=device)
