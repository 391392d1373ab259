"""Real categories in the layout of MVTec AD, where they are at hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustad.data import (
    calibration_split,
    categories,
    content_hash,
    folder,
    load,
    shots,
    write_mvtec,
)

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
# From the sets' own notes: images to train on, good and defective ones to test on.
COUNTS = {
    "aws_cookies/cookie": (31, 14, 32),
    "hazelnut_toy/hazelnut": (28, 6, 17),
    "mvtec_grid_mini/grid": (7, 3, 11),
    "mvtec_leather_mini/leather": (4, 4, 11),
    "mvtec_screw/screw": (320, 41, 119),
}

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/data beside the repository")


@pytest.mark.parametrize("name", COUNTS)
def test_real_categories_load(name):
    parent, category = name.split("/")
    assert categories("mvtec", SHARED / parent) == [category]
    made = load("mvtec", SHARED / parent, category)
    normal = sum(sample.label == 0 for sample in made.test)
    assert (len(made.train), normal, len(made.test) - normal) == COUNTS[name]
    own = folder(SHARED / parent / category)
    assert (own.train, own.test) == (made.train, made.test)
    calibration, evaluation = calibration_split(made.test)
    assert len(calibration) + len(evaluation) == len(made.test)
    assert len(shots(made, 4).train) == 4


@pytest.mark.parametrize("name", ["mvtec_grid_mini/grid", "mvtec_leather_mini/leather"])
def test_real_images_and_masks_are_sound(name):
    parent, category = name.split("/")
    made = load("mvtec", SHARED / parent, category)
    assert made.check() == []
    for sample in made.test:
        mask = sample.read_mask()
        assert mask.any() == bool(sample.label)
        assert mask.mean() < 0.5


def test_a_real_category_is_written_and_read_back(tmp_path):
    whole = load("mvtec", SHARED / "mvtec_leather_mini", "leather")
    made = replace(whole, train=whole.train[:1], test=whole.test[:3])
    write_mvtec(made, tmp_path)
    again = load("mvtec", tmp_path, "leather")
    assert len(again.train) == 1
    for ours, theirs in zip(made.test, again.test, strict=True):
        assert Path(ours.name).with_suffix(".png") == Path(theirs.name)
        assert np.array_equal(ours.read(), theirs.read())
        assert np.array_equal(ours.read_mask(), theirs.read_mask())
    assert content_hash(made) != content_hash(again)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["aws_cookies/cookie", "hazelnut_toy/hazelnut", "mvtec_screw/screw"]
)
def test_real_images_and_masks_are_sound_at_length(name):
    parent, category = name.split("/")
    assert load("mvtec", SHARED / parent, category).check() == []
