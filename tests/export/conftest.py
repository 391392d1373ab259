from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel

from robustad.backbones import create
from robustad.calibration import Platt, RawScore
from robustad.conformal import ConformalScores
from robustad.detectors import AnomalyDINO, Detector
from robustad.export import export_onnx
from robustad.geometry import Geometry, resize_bicubic
from robustad.verdict import Policy


class Exported(NamedTuple):
    detector: Detector
    path: Path


def images_of(count, height, width, seed, defect=False):
    """Smooth background, a darker disc, a little noise; a bright bar where there is a defect."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        coarse = rng.random((5, 5, 3)).astype(np.float32)
        pixels = 0.6 + 0.3 * resize_bicubic(coarse, height, width)
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        shift_y, shift_x = rng.uniform(-0.15, 0.15, 2)
        inside = (x - shift_x) ** 2 + (y - shift_y) ** 2 < 0.4
        pixels = np.where(inside[..., None], pixels - 0.5, pixels)
        if defect:
            pixels[height // 2 : height // 2 + 5, width // 3 : width // 2] = 1.0
        pixels = pixels + 0.03 * rng.standard_normal(pixels.shape)
        images.append((pixels.clip(0, 1) * 255).astype(np.uint8))
    return images


def batch_of(count, height, width, seed):
    stacked = np.stack(images_of(count, height, width, seed)).astype(np.float32) / 255
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


def fitted_platt(detector):
    good = detector.predict(images_of(6, 64, 80, seed=50)).score
    bad = detector.predict(images_of(6, 64, 80, seed=60, defect=True)).score
    labels = [0] * 6 + [1] * 6
    return Platt().fit(np.concatenate([good, bad]), labels)


def shallow_vit(name, blocks):
    """A timm ViT of a few blocks: the same operations, traced in a fraction of the time."""
    torch.manual_seed(0)
    backbone = create(name, "random")
    backbone.model.blocks = backbone.model.blocks[:blocks]
    return backbone


class ContrastConfig(BaseModel):
    branches: bool


class Contrast(Detector):
    """A detector that nothing in `robustad.export` knows."""

    method: ClassVar[str] = "contrast"

    def __init__(self, *, branches=False, top_fraction=0.3):
        super().__init__(
            geometry=Geometry(size=32, multiple=8), top_fraction=top_fraction, map_sigma=1.0
        )
        self.branches = branches
        self.offset = torch.nn.Parameter(torch.tensor(0.1))

    def patch_scores(self, x):
        if self.branches and x.shape[2] * x.shape[3] > 3000:
            x = 1 - x
        pooled = F.avg_pool2d((x - x.mean(dim=(2, 3), keepdim=True)).abs(), 8)
        return pooled.mean(dim=1).flatten(1) + self.offset

    def patch_grid(self, height, width):
        return height // 8, width // 8

    def config(self):
        return ContrastConfig(branches=self.branches)

    @classmethod
    def from_config(cls, config, tensors):
        return cls(**config)

    def saved_tensors(self):
        return {"offset": self.offset.detach()}


@pytest.fixture(scope="session")
def make_images():
    return images_of


@pytest.fixture(scope="session")
def make_batch():
    return batch_of


@pytest.fixture(scope="session")
def contrast_class():
    return Contrast


@pytest.fixture(scope="session")
def masked(tmp_path_factory):
    """Everything at once: whitening, mask, k = 3, calibration, held-out scores, free size."""
    detector = AnomalyDINO("filters", image_size=64, mask=True, mask_threshold=1.0, k=3)
    detector.fit(images_of(4, 64, 80, seed=1))
    detector.calibrator = fitted_platt(detector)
    normal = detector.predict(images_of(9, 64, 80, seed=70)).score
    detector.conformal = ConformalScores(normal)
    detector.policy = Policy(threshold=0.4, entropy_threshold=0.6)
    path = tmp_path_factory.mktemp("masked") / "masked.onnx"
    attacks = [{"name": "fgsm", "norm": "linf", "eps": 8 / 255, "auroc": 0.5}]
    export_onnx(detector, path, input="float_nchw", evaluation={"attacks": attacks})
    return Exported(detector, path)


@pytest.fixture(scope="session")
def vit(tmp_path_factory):
    """A ViT whose position embedding (37 x 37) is resampled in the graph; not calibrated."""
    backbone = shallow_vit("vit_small_patch14_dinov2", blocks=2)
    detector = AnomalyDINO(backbone, image_size=70).fit(images_of(3, 70, 98, seed=2))
    path = tmp_path_factory.mktemp("vit") / "vit.onnx"
    return Exported(detector, export_onnx(detector, path, input="float_nchw"))


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """A CNN, square and therefore of fixed size; the raw score is its probability."""
    torch.manual_seed(0)
    detector = AnomalyDINO("resnet18", "random", image_size=64, square=True, top_fraction=3)
    detector.fit(images_of(3, 64, 80, seed=3))
    detector.calibrator = RawScore()
    path = tmp_path_factory.mktemp("resnet") / "resnet.onnx"
    return Exported(detector, export_onnx(detector, path, input="float_nchw", opset=18))


@pytest.fixture(scope="session")
def contrast(tmp_path_factory):
    detector = Contrast()
    path = tmp_path_factory.mktemp("contrast") / "contrast.onnx"
    return Exported(detector, export_onnx(detector, path, input="float_nchw"))


@pytest.fixture
def tampered(tmp_path) -> Callable[[Path, Callable[[onnx.ModelProto], None]], Path]:
    """Copy a file with something changed in it."""

    def change(path, edit):
        model = onnx.load(path)
        edit(model)
        changed = tmp_path / "changed.onnx"
        onnx.save(model, changed)
        return changed

    return change
