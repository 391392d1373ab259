import numpy as np
import pytest
import torch
from pydantic import BaseModel

from robustad.data import Sample
from robustad.detectors import Detector
from robustad.geometry import Geometry


class Config(BaseModel):
    gain: float


class Redness(Detector):
    """Patch scores are the mean red of 4 x 4 pixels: everything about it is known by hand."""

    method = "redness"

    def __init__(self, gain=1.0):
        super().__init__(geometry=Geometry(size=16, multiple=4), top_fraction=2, map_sigma=0.0)
        self.gain = gain
        self.register_buffer("anchor", torch.zeros(1))
        self.eval()

    def patch_features(self, x):
        pooled = torch.nn.functional.avg_pool2d(x, 4)
        return pooled.flatten(2).transpose(1, 2)

    def patch_scores(self, x):
        return self.gain * self.patch_features(x)[:, :, 0]

    def patch_grid(self, height, width):
        return height // 4, width // 4

    def config(self):
        return Config(gain=self.gain)

    @classmethod
    def from_config(cls, config, tensors):
        return cls(**config)

    def saved_tensors(self):
        return {}


@pytest.fixture
def redness():
    return Redness


def make(index, label, *, red=None, mask=True, size=16):
    """A dark image; an anomalous one has a red 4 x 4 patch and a less red one beside it."""
    rng = np.random.default_rng(index)
    image = rng.integers(20, 60, (size, size, 3), np.uint8)
    truth = np.zeros((size, size), bool)
    if label:
        image[4:8, 4:12, 0] = rng.integers(70, 160) if red is None else red
        truth[4:8, 4:12] = True
    return Sample(
        image=image,
        label=label,
        name=f"{'bad' if label else 'good'}/{index:03d}",
        defect="red" if label else "good",
        mask=truth if label and mask else None,
    )


@pytest.fixture
def sample():
    return make


@pytest.fixture
def samples():
    """Labelled samples: weak defects among them, so that the classes overlap."""

    def build(first, count=8, **options):
        made = [make(first + i, 0, **options) for i in range(count // 2)]
        made += [
            make(first + i, 1, red=45 if i % 4 == 0 else None, **options)
            for i in range(count // 2, count)
        ]
        return made

    return build
