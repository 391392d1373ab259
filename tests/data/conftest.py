import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = (10, 12)
MASK_PARTS = {"ground_truth", "label", "anomaly_mask", "Masks", "masks", "mask"}


def draw(root: Path, file: str) -> None:
    """A tiny image, unlike any other, or in a folder of masks a mask."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(file.encode()))
    if MASK_PARTS & set(Path(file).parts):
        pixels = np.zeros(SIZE, np.uint8)
        pixels[2:5, 3 : 4 + rng.integers(6)] = 255
    else:
        pixels = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def tree(tmp_path):
    """Write tiny images at the given paths; gives the root."""

    def build(*files):
        for file in files:
            draw(tmp_path, file)
        return tmp_path

    return build


def mvtec_files(category, *, suffix="png", mask_ending="_mask", prefix=""):
    base = f"{prefix}{category}"
    return (
        *(f"{base}/train/good/{i:03d}.{suffix}" for i in range(4)),
        *(f"{base}/test/good/{i:03d}.{suffix}" for i in range(2)),
        *(f"{base}/test/hole/{i:03d}.{suffix}" for i in range(3)),
        *(f"{base}/test/cut/{i:03d}.{suffix}" for i in range(2)),
        *(f"{base}/ground_truth/hole/{i:03d}{mask_ending}.png" for i in range(3)),
        *(f"{base}/ground_truth/cut/{i:03d}{mask_ending}.png" for i in range(2)),
    )


@pytest.fixture
def mvtec():
    """Files of a category in MVTec's layout."""
    return mvtec_files
