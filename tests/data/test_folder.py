from pathlib import Path

import numpy as np
import pytest

from robustad.data import Folder, folder, load
from robustad.errors import DataError, InputError


def listed(samples):
    return [sample.name for sample in samples]


def masks_of(dataset):
    return {sample.name: sample.mask for sample in dataset.test if sample.mask is not None}


def test_layout_of_mvtec_is_read_as_load_reads_it(tree, mvtec):
    root = tree(*mvtec("screw"))
    ours, theirs = folder(root / "screw"), load("mvtec", root, "screw")
    assert (ours.name, ours.category) == ("folder", "screw")
    assert ours.train == theirs.train
    assert ours.test == theirs.test
    assert Folder is folder


def test_missing_masks_are_allowed(tree, mvtec):
    root = tree(*mvtec("screw"))
    (root / "screw/ground_truth/hole/001_mask.png").unlink()
    made = folder(root / "screw")
    missing = [s for s in made.test if s.label and s.mask is None]
    assert listed(missing) == ["test/hole/001.png"]
    assert missing[0].read_mask() is None


@pytest.mark.parametrize(("train", "names"), [("train", 3), ("train/ok", 3), ("Train/Normal", 3)])
def test_training_folder_without_a_test_set(tree, train, names):
    made = folder(tree(*(f"{train}/{i}.png" for i in range(names))))
    assert listed(made.train) == [f"{train}/{i}.png" for i in range(names)]
    assert made.test == ()


@pytest.mark.parametrize(
    ("good", "bad"), [("normal", "anomalous"), ("good", "defect"), ("ok", "nok"), ("OK", "NOK")]
)
def test_two_folders(tree, good, bad):
    root = tree(*(f"{good}/{i}.png" for i in range(10)), *(f"{bad}/{i}.png" for i in range(3)))
    made = folder(root)
    assert len(made.train) == 8
    assert [(s.label, s.defect) for s in made.test if s.label] == [(1, bad)] * 3
    held = {s.name for s in made.test if not s.label}
    assert len(held) == 2
    assert held | set(listed(made.train)) == {f"{good}/{i}.png" for i in range(10)}
    assert folder(root) == made
    others = {tuple(listed(folder(root, seed=seed).train)) for seed in range(6)}
    assert len(others) > 1
    assert len(folder(root, test_fraction=0.5).train) == 5


def test_the_split_is_the_same_everywhere(tree):
    # Pinned: a change here changes published results.
    root = tree(*(f"good/{i}.png" for i in range(10)), "bad/0.png")
    held = {seed: listed(folder(root, seed=seed).test)[1:] for seed in (0, 1)}
    assert held == {0: ["good/2.png", "good/3.png"], 1: ["good/2.png", "good/9.png"]}


def test_two_folders_with_masks_and_defect_classes(tree):
    root = tree(
        *(f"good/{i}.png" for i in range(4)),
        *(f"defect/scratch/{i}.png" for i in range(2)),
        *(f"defect/dent/{i}.png" for i in range(2)),
        "defect/9.png",
        "masks/scratch/0_mask.png",
        "masks/scratch/1.bmp",
        "masks/dent/1.png",
        "masks/9.png",
    )
    made = folder(root)
    assert {s.name: s.defect for s in made.test if s.label} == {
        "defect/scratch/0.png": "scratch",
        "defect/scratch/1.png": "scratch",
        "defect/dent/0.png": "dent",
        "defect/dent/1.png": "dent",
        "defect/9.png": "defect",
    }
    assert masks_of(made) == {
        "defect/scratch/0.png": root / "masks/scratch/0_mask.png",
        "defect/scratch/1.png": root / "masks/scratch/1.bmp",
        "defect/dent/1.png": root / "masks/dent/1.png",
        "defect/9.png": root / "masks/9.png",
    }
    assert made.check() == []


def test_masks_of_normal_images_are_ignored(tree):
    root = tree(
        "good/0.png", "good/1.png", "bad/7.png", "masks/0.png", "masks/1.png", "masks/7.png"
    )
    assert masks_of(folder(root)) == {"bad/7.png": root / "masks/7.png"}


def test_normal_images_alone(tree):
    root = tree("a.png", "b.jpg", "c.BMP")
    (root / "Thumbs.db").write_bytes(b"")
    made = folder(root, category="disc")
    assert listed(made.train) == ["a.png", "b.jpg", "c.BMP"]
    assert (made.category, made.test) == ("disc", ())
    assert listed(folder(tree("one/good/0.png") / "one").train) == ["good/0.png"]


def test_named_folders(tree):
    root = tree(
        *(f"day/fine/{i}.png" for i in range(3)),
        *(f"night/fine/{i}.png" for i in range(2)),
        "night/cracked/0.png",
        "night/bent/0.png",
        "truth/cracked/0.png",
    )
    made = folder(
        root,
        train="day/fine",
        test_normal=Path("night/fine"),
        test_anomalous=["night/cracked", "night/bent"],
        masks="truth",
    )
    assert len(made.train) == 3
    assert [(s.name, s.defect) for s in made.test] == [
        ("night/bent/0.png", "bent"),
        ("night/cracked/0.png", "cracked"),
        ("night/fine/0.png", "good"),
        ("night/fine/1.png", "good"),
    ]
    assert list(masks_of(made)) == ["night/cracked/0.png"]
    split = folder(root, test_normal="day/fine", test_anomalous="night/cracked")
    assert (len(split.train), len(split.test)) == (2, 2)
    assert folder(root, train="day/fine").test == ()
    nested = folder(root, train="day/fine", test_anomalous="night")
    assert sorted(s.defect for s in nested.test) == ["bent", "cracked", "fine", "fine"]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["x/0.png"], {}, r"expected train/good and test/<defect>, .* found x$"),
        ([], {}, r"found no folder and no image"),
        (["bad/0.png"], {}, r"found bad$"),
        (["good/0.png", "ok/0.png", "bad/0.png"], {}, r"found bad, good, ok$"),
        (
            ["good/0.png", "good/1.png", "bad/0.png", "dent/0.png"],
            {},
            r"dent: expected .* pass test_normal='good', test_anomalous=\['dent', \.\.\.\]",
        ),
        (["good/0.png", "bad/0.png"], {}, r"good: expected at least 2 normal images .* got 1"),
        (["train/good/0.png", "train/bad/0.png"], {}, r"train: expected one folder .* bad, good"),
        (["train/x/0.png"], {}, r"train: expected one folder of normal images .* found x"),
        (["train/0.png", "test/0.png"], {}, r"test: expected a folder a class .* found none"),
        (
            ["train/0.png", "test/cut/0.png", "ground_truth/cut/1.png"],
            {},
            r"cut/1\.png: mask without an image named 1",
        ),
        (
            ["train/0.png", "test/cut/0.png", "masks/dent/0.png"],
            {},
            r"dent: masks without images, found no defect class dent",
        ),
        (["a.png", "masks/b.png"], {}, r"b\.png: mask without an image named b"),
        (
            ["good/0.png", "good/1.png", "bad/x/0.png", "bad/y/0.png", "masks/0.png"],
            {},
            r"masks/0\.png: fits both .*x/0\.png and .*y/0\.png; expected a folder of masks",
        ),
        (["a.png", "a.jpg"], {}, r"expected one file a name, got a\.jpg and a\.png"),
        (["good/0.png", "a_mask.png"], {"train": "gone"}, r"gone: no such folder"),
        (
            ["good/0.png", "notes"],
            {"train": "good/0.png"},
            r"0\.png: expected a folder, got a file",
        ),
        (
            ["good/0.png"],
            {"train": "good", "test_normal": "good"},
            r"expected unique names, got 2 samples named good/0\.png",
        ),
        (
            ["good/0.png", "a/cut/0.png", "b/cut/0.png"],
            {"train": "good", "test_anomalous": ["a/cut", "b/cut"]},
            r"b/cut: expected one folder a defect class, .*a/cut is one too",
        ),
        (
            ["train/0.png", "test/good/0.png", "test/cut/0.png"],
            {"train": "train", "test_anomalous": "test"},
            r"test/good: expected anomalous images, the name says normal",
        ),
        (
            ["good/0.png", "bad"],
            {"train": "good", "test_anomalous": "bad"},
            r"expected image files",
        ),
    ],
)
def test_wrong_folders(tree, files, options, message):
    root = tree(*(file for file in files if "." in file))
    for name in files:
        if "." not in name:
            (root / name).mkdir()
    with pytest.raises(DataError, match=message):
        folder(root, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_anomalous": "bad"}, "test_anomalous: expected train or test_normal with it, got"),
        ({"train": "../other"}, r"train: expected a folder inside .* got \.\./other"),
        ({"train": "good", "masks": "/tmp"}, "masks: expected a folder inside"),
        ({"test_fraction": 0.0}, r"test_fraction: expected a share in \(0, 1\), got 0"),
        ({"test_fraction": 1.0}, r"test_fraction: expected a share in \(0, 1\), got 1"),
        ({"test_fraction": float("nan")}, "test_fraction: expected a share"),
        ({"seed": -1}, "seed: expected an integer >= 0, got -1"),
    ],
)
def test_wrong_options(tree, options, message):
    root = tree("good/0.png", "good/1.png", "bad/0.png")
    with pytest.raises(InputError, match=message):
        folder(root, **options)


def test_root_errors(tmp_path):
    with pytest.raises(DataError, match="expected a folder of images, got no such folder"):
        folder(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="expected a folder of images, got a file"):
        folder(tmp_path / "file")


def test_only_names_are_read(tree):
    root = tree("good/0.png", "good/1.png", "bad/0.png")
    (root / "bad/0.png").write_bytes(b"no image")
    made = folder(root)
    with pytest.raises(DataError, match=r"bad/0\.png: cannot be read"):
        made.test[0].read()
    assert made.train[0].read().dtype == np.float32
