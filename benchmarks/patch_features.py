"""Vectors that benchmarks search: made ones, noise, and those of real images."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustad.data import Sample, folder
from robustad.detectors import AnomalyDINO

DIM = 384
REFERENCES = 16  # images in a bank of real features
SHARED = Path(__file__).parents[2] / "shared"
TRUNK = SHARED / "weights" / "resnet18_layers1to3.safetensors"
IMAGES = {
    "hazelnut": SHARED / "data" / "hazelnut_toy" / "hazelnut",
    "screw": SHARED / "data" / "mvtec_screw" / "screw",
}


def made(rows: int, seed: int) -> Tensor:
    """Vectors (rows, 384) of 24 inner dimensions and some noise."""
    basis = torch.randn(24, DIM, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, 24, generator=generator)
    return latent @ basis + 0.3 * torch.randn(rows, DIM, generator=generator)


def noise(rows: int, seed: int) -> Tensor:
    """Vectors (rows, 384) of all directions: no bank is harder to search."""
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


@cache
def of_images(name: str, images: int) -> tuple[Tensor, Tensor]:
    """Patches of ResNet-18 at 224 px: of test images, (784 images, 384), and the bank's."""
    if not (TRUNK.is_file() and IMAGES[name].is_dir()):
        pytest.skip(f"needs the weights {TRUNK.name} and the images of {name}")
    data = folder(IMAGES[name])
    detector = AnomalyDINO("resnet18", TRUNK, image_size=224)

    @torch.inference_mode()
    def patches(samples: Sequence[Sample], count: int) -> Tensor:
        picked = torch.linspace(0, len(samples) - 1, count).round().long().tolist()
        parts = [
            detector.patch_features(
                detector.stack([detector.geometry.apply(samples[i].read())])
            ).reshape(-1, DIM)
            for i in picked
        ]
        return torch.cat(parts).clone()

    return patches(data.test, images), patches(data.train, REFERENCES)
