"""What certification costs over the bare passes of the network that scores the noisy copies.

One image, 1000 copies, against the backbone alone and against the whole detector on as many images
in batches of the same size. `throughput` is the share of theirs that certification reaches: medians
of alternating runs.
"""

import time
from collections.abc import Callable
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
    def passes(self, run: Callable[[Tensor], Any]) -> None:
        """As many images as copies, in batches of the same size."""
        for first in range(0, self.copies, BATCH):
            run(self.many[: min(BATCH, self.copies - first)])
        self.wait()

    def certify(self) -> Any:
        scores = noisy_scores(self.detector, self.x, sigma=SIGMA, n=self.copies, batch_size=BATCH)
        return median_intervals(scores.cpu().numpy(), RADII, sigma=SIGMA)

    def wait(self) -> None:
        if self.x.is_cuda:
            torch.cuda.synchronize()

    def share(self, run: Callable[[Tensor], Any], rounds: int) -> float:
        """Throughput of certification against bare passes: medians of alternating runs."""
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for kept, call in zip(times, (self.certify, lambda: self.passes(run)), strict=True):
                start = time.perf_counter()
                call()
                kept.append(time.perf_counter() - start)
        ours, bare = (sorted(kept)[len(kept) // 2] for kept in times)
        return bare / ours


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_certify_one_image(benchmark: Any, name: str, device: str) -> None:
    case = Case(name, device)
    benchmark.group = f"certify one image, {case.copies} copies, {name}, {device}"
    ends = case.certify()
    assert (ends.lower[:, :2] < ends.upper[:, :2]).all()
    rounds = 5 if case.copies < 1000 else 3
    benchmark.extra_info.update(
        items=case.copies,
        device=device,
        throughput_of_backbone=case.share(case.backbone, rounds),
        throughput_of_detector=case.share(case.detector, rounds),
    )
    benchmark.pedantic(case.certify, rounds=2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_backbone_alone(benchmark: Any, name: str, device: str) -> None:
    case = Case(name, device)
    benchmark.group = f"certify one image, {case.copies} copies, {name}, {device}"
    benchmark.extra_info.update(items=case.copies, device=device)
    benchmark.pedantic(case.passes, (case.backbone,), rounds=2, warmup_rounds=1)


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
