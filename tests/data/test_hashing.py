import dataclasses
import shutil

import numpy as np
import pytest

from robustad.data import Dataset, Sample, content_hash, load
from robustad.errors import DataError

PINNED = "5646cd6ce5fdaca66e8f32443f6c7b5d4488294c65efbd28a28341dca80f6363"
PIXELS = np.arange(36, dtype=np.uint8).reshape(4, 3, 3)
MASK = np.eye(4, 3, dtype=np.bool_)


def dataset(**changes):
    good = Sample(image=PIXELS, label=0, name="good")
    bad = Sample(image=PIXELS, label=1, name="bad", defect="hole", mask=MASK)
    bad = dataclasses.replace(bad, **changes)
    return Dataset(name="demo", category="disc", train=(good,), test=(bad,))


def test_the_hash_does_not_depend_on_the_place(tree, mvtec, tmp_path):
    root = tree(*mvtec("screw"))
    first = content_hash(load("mvtec", root, "screw"))
    shutil.copytree(root / "screw", tmp_path / "other" / "screw")
    assert content_hash(load("mvtec", tmp_path / "other", "screw")) == first
    assert len(first) == 64
    assert int(first, 16) >= 0


def test_the_hash_is_the_same_everywhere():
    # Pinned: a change here orphans every stored result.
    assert content_hash(dataset()) == PINNED
    renamed = dataclasses.replace(dataset(), name="other", category="else")
    assert content_hash(renamed) == PINNED
    strided = np.asfortranarray(PIXELS)
    assert content_hash(dataset(image=strided)) == PINNED


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Bad"},
        {"defect": "cut"},
        {"label": 0, "defect": "hole"},
        {"image": PIXELS + np.uint8(1)},
        {"image": PIXELS.reshape(3, 4, 3)},
        {"mask": ~MASK},
        {"mask": None},
        {"name": "badh", "defect": "ole"},
    ],
)
def test_every_part_counts(changes):
    assert content_hash(dataset(**changes)) != content_hash(dataset())


def test_training_and_test_are_told_apart():
    good = Sample(image=PIXELS, label=0, name="good")
    train = Dataset(name="demo", category="disc", train=(good,), test=())
    test = Dataset(name="demo", category="disc", train=(), test=(good,))
    assert content_hash(train) != content_hash(test)


def test_a_changed_byte_counts(tree, mvtec):
    root = tree(*mvtec("screw"))
    made = load("mvtec", root, "screw")
    before = content_hash(made)
    path = root / "screw/ground_truth/hole/000_mask.png"
    path.write_bytes(path.read_bytes() + b"\0")
    assert content_hash(made) != before
    path.unlink()
    with pytest.raises(DataError, match=r"000_mask\.png: cannot be read: No such file"):
        content_hash(made)
