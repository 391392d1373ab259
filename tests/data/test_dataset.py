import dataclasses

import numpy as np
import pytest
from PIL import Image

from robustad.data import Dataset, Sample, folder, load
from robustad.errors import DataError, RobustadError

PIXELS = np.zeros((4, 5, 3), np.uint8)


def sample(name, label=0, **fields):
    return Sample(image=PIXELS, label=label, name=name, **fields)


def dataset(train=(), test=()):
    return Dataset(name="demo", category="disc", train=tuple(train), test=tuple(test))


def test_samples_are_sorted_by_name():
    made = dataset([sample("c"), sample("a")], [sample("z"), sample("b", 1, defect="hole")])
    assert [item.name for item in made.train] == ["a", "c"]
    assert [item.name for item in made.test] == ["b", "z"]
    assert repr(made).endswith("train=2, test=1 normal + 1 anomalous)")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([sample("a"), sample("a")], [], "demo/disc: expected unique names, got 2 samples named a"),
        ([sample("a")], [sample("a")], "got 2 samples named a"),
        ([sample("a", 1, defect="hole")], [], "a: expected normal images for training, got an an"),
        ([], [sample("a", 2)], "a: expected label 0 or 1, got 2"),
    ],
)
def test_wrong_samples_are_refused(train, test, message):
    with pytest.raises(DataError, match=message):
        dataset(train, test)


def test_masks_of_samples_in_memory():
    mask = np.zeros((4, 5), np.bool_)
    mask[1, 2] = True
    bad = sample("bad", 1, defect="hole", mask=mask)
    assert np.array_equal(bad.read_mask(), mask)
    assert sample("open", 1, defect="hole").read_mask() is None
    assert sample("good").read_mask().shape == (4, 5)
    assert not sample("good").read_mask().any()
    wrong = dataclasses.replace(bad, mask=mask[:2])
    with pytest.raises(DataError, match=r"mask of bad: expected the size .*4 x 5 pixels, got 2 x"):
        wrong.read_mask()


def test_check_finds_nothing_in_a_sound_set_and_reports_progress(tree, mvtec):
    made = load("mvtec", tree(*mvtec("screw")), "screw")
    calls = []
    assert made.check(progress=lambda done, total: calls.append((done, total))) == []
    assert calls == [(i, 11) for i in range(1, 12)]


def test_check_names_every_problem(tree, mvtec):
    root = tree(*mvtec("screw"))
    base = root / "screw"
    (base / "train/good/000.png").write_bytes(b"no image")
    truncated = (base / "train/good/001.png").read_bytes()[:-60]
    (base / "train/good/001.png").write_bytes(truncated)
    Image.new("L", (12, 10)).save(base / "ground_truth/hole/000_mask.png")
    Image.new("L", (3, 3), 255).save(base / "ground_truth/hole/001_mask.png")
    (base / "ground_truth/hole/002_mask.png").unlink()
    Image.new("L", (12, 10), 255).save(base / "ground_truth/hole/002_mask.jpg")
    (base / "ground_truth/cut/000_mask.png").write_bytes(b"")
    (base / "test/good/000.png").write_bytes((base / "train/good/002.png").read_bytes())

    problems = load("mvtec", root, "screw").check()

    expected = [
        ("train/good/000.png: cannot be read as an image: not an image",),
        ("train/good/001.png: cannot be read as an image",),
        ("mask of test/cut/000.png", "cut/000_mask.png"),
        ("test/good/000.png: same pixels as the training image train/good/002.png",),
        ("hole/000_mask.png: marks no pixel, but test/hole/000.png is anomalous",),
        ("hole/001_mask.png: expected the size of its image test/hole/001.png, 10 x 12", "3 x 3"),
        ("hole/002_mask.jpg: expected a lossless mask, got a JPEG",),
    ]
    assert len(problems) == len(expected)
    for problem, parts in zip(problems, expected, strict=True):
        assert all(part in problem for part in parts), problem


def test_a_corrupt_image_is_an_error_at_read(tree):
    root = tree("a.png", "b.png")
    (root / "a.png").write_bytes(b"no image")
    made = folder(root)
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image: not an image"):
        made.train[0].read()
    (root / "b.png").unlink()
    with pytest.raises(RobustadError, match=r"b\.png: no such image"):
        made.train[1].read()


def test_masks_of_any_positive_value_count(tree, mvtec):
    root = tree(*mvtec("screw"))
    path = root / "screw/ground_truth/hole/000_mask.png"
    values = np.zeros((10, 12), np.uint8)
    values[0, :3] = (1, 7, 255)
    Image.fromarray(values).save(path)
    item = next(s for s in load("mvtec", root, "screw").test if s.name == "test/hole/000.png")
    assert np.array_equal(item.read_mask(), values > 0)
