import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from robustad.backbones import Backbone, BackboneConfig
from robustad.calibration import Platt
from robustad.conformal import ConformalScores, RiskThreshold
from robustad.detectors import AnomalyDINO
from robustad.export import export_onnx
from robustad.verdict import Policy


class Exported(NamedTuple):
    detector: AnomalyDINO
    path: Path


class Means(Backbone):
    """Local means of colours and their squares: quick to trace."""

    has_weights = False

    def __init__(self):
        super().__init__()
        self.config = BackboneConfig(name="means")
        self.patch_size = self.multiple = 8
        self.dim = 6

    def features(self, x):
        maps = torch.cat([x, 4 * (x - x.mean(dim=(2, 3), keepdim=True)).square()], dim=1)
        return F.avg_pool2d(maps, 8).flatten(2).transpose(1, 2)


def images_of(count, height, width, seed):
    """Stripes and noise, with a bright square in every second image."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(count):
        stripes = 90 + 50 * np.sin(np.arange(width) / 3 + rng.uniform(0, 6))
        pixels = stripes[None, :, None] + rng.normal(0, 8, (height, width, 3))
        if i % 2:
            pixels[height // 3 : height // 2, width // 3 : width // 2] = 240
        images.append(pixels.clip(0, 255).astype(np.uint8))
    return images


@pytest.fixture(scope="session")
def make_images():
    return images_of


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A calibrated detector that takes images of any aspect ratio."""
    detector = AnomalyDINO(Means(), image_size=48).fit(images_of(5, 60, 80, seed=0)[::2])
    scores = detector.predict(images_of(12, 60, 80, seed=1)).score
    detector.calibrator = Platt().fit(scores, np.arange(12) % 2)
    detector.conformal = ConformalScores(
        detector.predict(images_of(20, 60, 80, seed=2)[::2]).score, anomalous=scores[1::2]
    )
    detector.policy = Policy(threshold=0.3, entropy_threshold=0.65, p_value_threshold=0.1)
    detector.pixel_threshold = RiskThreshold(
        value=0.25, loss="pixel_miss", alpha=0.2, n=9, risk=0.1
    )
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return Exported(detector, export_onnx(detector, path))


@pytest.fixture
def with_metadata(exported, tmp_path):
    """Copy the file with its metadata changed; None takes them away."""

    def change(edit):
        model = onnx.load(exported.path)
        [entry] = model.metadata_props
        if edit is None:
            del model.metadata_props[:]
        else:
            document = json.loads(entry.value)
            changed = edit(document)
            entry.value = changed if isinstance(changed, str) else json.dumps(document)
        path = tmp_path / "changed.onnx"
        onnx.save(model, path)
        return path

    return change
