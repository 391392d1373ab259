import numpy as np
import pytest
import torch
from pydantic import BaseModel

from robustad.data import Sample
from robustad.detectors import Detector
from robustad.geometry import Geometry


class Config(BaseModel):
    seed: int


class Linear(Detector):
    """A score that is linear in the pixels: its median and quantiles under noise are known.

    Pixels stay near 0.5 and the noise small, so that clipping to [0, 1] changes next to nothing.
    """

    method = "linear"

    def __init__(self, *, seed=0, size=8):
        super().__init__(geometry=Geometry(size=size, multiple=size), top_fraction=1, map_sigma=0.0)
        weight = torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("weight", weight)
        self.seed = seed
        self.eval()

    @property
    def length(self):
        return float(self.weight.norm())

    def patch_scores(self, x):
        return (x.float() * self.weight).sum(dim=(1, 2, 3))[:, None]

    def patch_grid(self, height, width):
        return 1, 1

    def config(self):
        return Config(seed=self.seed)

    @classmethod
    def from_config(cls, config, tensors):
        return cls(**config)

    def saved_tensors(self):
        return {"weight": self.weight}


@pytest.fixture(scope="session")
def linear():
    return Linear


@pytest.fixture(scope="session")
def grey():
    """Images near the middle of the pixel range."""

    def build(count=2, size=8, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return 0.45 + 0.1 * torch.rand(count, 3, size, size, generator=generator)

    return build


@pytest.fixture(scope="session")
def samples():
    """Labelled images of flat grey with noise; anomalous ones have a bright square."""

    def build(normal=3, anomalous=3, size=32, seed=0):
        rng = np.random.default_rng(seed)
        made = []
        for index in range(normal + anomalous):
            label = int(index >= normal)
            image = rng.integers(90, 130, (size, size, 3)).astype(np.uint8)
            mask = np.zeros((size, size), bool)
            if label:
                mask[8:20, 8:20] = True
                image[mask] = 230
            made.append(
                Sample(
                    image=image,
                    label=label,
                    name=f"{'bad' if label else 'good'}/{index:03d}",
                    defect="square" if label else "good",
                    mask=mask if label else None,
                )
            )
        return made

    return build


@pytest.fixture(scope="session")
def detector(samples):
    """A small nearest-neighbour detector smoothed and fitted on noisy copies."""
    from robustad.certificates import SmoothedDetector
    from robustad.detectors import AnomalyDINO

    base = AnomalyDINO("filters", image_size=32)
    smoothed = SmoothedDetector(base, sigma=0.1, draws=9)
    return smoothed.fit([one.image for one in samples(4, 0, seed=7)])
