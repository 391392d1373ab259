import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustad.data import categories, load, names, shots
from robustad.data.layouts import LAYOUTS
from robustad.errors import DataError, InputError

MVTEC_LIKE = ("mvtec", "visa", "mpdd", "wfdd", "dtd_synthetic")


def listed(samples):
    return [sample.name for sample in samples]


def masks_of(dataset):
    return {
        sample.name: sample.mask.name for sample in dataset.test if isinstance(sample.mask, Path)
    }


def rewrite(path, change):
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def visa(tree):
    """VisA as it is unpacked: a split file, images by category."""
    normal = [f"candle/Data/Images/Normal/{i:04d}.JPG" for i in range(6)]
    bad = [f"candle/Data/Images/Anomaly/{i:03d}.JPG" for i in range(2)]
    masks = [f"candle/Data/Masks/Anomaly/{i:03d}.png" for i in range(2)]
    root = tree(*normal, *bad, *masks)
    for mask in masks:  # values are defect numbers, not 255
        path = root / mask
        Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8) * 3).save(path)
    rows = [
        ("object", "split", "label", "image", "mask"),
        # in no order, as published
        *(("candle", "train", "normal", normal[i], "") for i in (5, 0, 3, 1)),
        *(("candle", "test", "normal", normal[i], "") for i in (4, 2)),
        *(("candle", "test", "anomaly", bad[i], masks[i]) for i in (1, 0)),
        ("pcb1", "train", "normal", "pcb1/Data/Images/Normal/0000.JPG", ""),
    ]
    table = root / "split_csv/1cls.csv"
    table.parent.mkdir()
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture
def brats(tree):
    def build(mask_folder, train="train/good/img"):
        return tree(
            *(f"{train}/0000{i}_60.png" for i in range(3)),
            *(f"valid/{kind}/img/00009_{i}.png" for kind in ("good", "Ungood") for i in range(2)),
            *(f"test/good/img/00004_{i}.png" for i in range(2)),
            *(f"test/good/{mask_folder}/00004_{i}.png" for i in range(2)),
            *(f"test/Ungood/img/00005_{i}.png" for i in range(2)),
            *(f"test/Ungood/{mask_folder}/00005_{i}.png" for i in range(2)),
        )

    return build


@pytest.fixture
def headct(tree):
    """Head-CT as it is unpacked: slices 0..4 with, 5..9 without a hemorrhage."""
    root = tree(*(f"head_ct/head_ct/{i:03d}.png" for i in range(10)))
    rows = "\n".join(f"{i},{int(i < 5)}" for i in range(10))
    (root / "labels.csv").write_text(f"id, hemorrhage\n{rows}\n")
    return root


@pytest.mark.parametrize("name", MVTEC_LIKE)
@pytest.mark.parametrize("wrapped", [False, True])
def test_layout_of_mvtec(tree, mvtec, name, wrapped):
    layout = LAYOUTS[name]
    category = layout.categories[0]
    prefix = f"{layout.wrappers[0]}/" if wrapped else ""
    root = tree(*mvtec(category, prefix=prefix), *mvtec("extra", prefix=prefix))
    assert categories(name, root) == sorted([category, "extra"])
    for each in (category, "extra"):
        made = load(name, root, each)
        assert (made.name, made.category) == (name, each)
        assert listed(made.train) == [f"train/good/{i:03d}.png" for i in range(4)]
        assert listed(made.test) == [
            *(f"test/cut/{i:03d}.png" for i in range(2)),
            *(f"test/good/{i:03d}.png" for i in range(2)),
            *(f"test/hole/{i:03d}.png" for i in range(3)),
        ]
        assert [sample.defect for sample in made.test] == ["cut"] * 2 + ["good"] * 2 + ["hole"] * 3
        assert [sample.label for sample in made.test] == [1, 1, 0, 0, 1, 1, 1]
        assert masks_of(made)["test/hole/002.png"] == "002_mask.png"
        assert made.check() == []


def test_masks_may_bear_the_same_name(tree, mvtec):
    root = tree(*mvtec("tubes", suffix="JPG", mask_ending=""))
    made = load("mpdd", root, "tubes")
    assert masks_of(made)["test/cut/001.JPG"] == "001.png"


@pytest.mark.parametrize(
    ("category", "image", "mask"),
    [("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")],
)
@pytest.mark.parametrize("wrapper", ["", "BTech_Dataset_transformed/"])
def test_btad(tree, category, image, mask, wrapper):
    base = f"{wrapper}{category}"
    root = tree(
        *(f"{base}/train/ok/{i:04d}.{image}" for i in range(3)),
        *(f"{base}/test/ok/{i:04d}.{image}" for i in range(2)),
        *(f"{base}/test/ko/{i:04d}.{image}" for i in range(2)),
        *(f"{base}/ground_truth/ko/{i:04d}.{mask}" for i in range(2)),
    )
    made = load("btad", root, category)
    assert listed(made.train) == [f"train/ok/{i:04d}.{image}" for i in range(3)]
    assert [(s.label, s.defect) for s in made.test] == [(1, "ko")] * 2 + [(0, "good")] * 2
    assert masks_of(made)[f"test/ko/0001.{image}"] == f"0001.{mask}"
    assert made.check() == []


def test_visa_by_its_split_file(visa):
    assert categories("visa", visa) == ["candle", "pcb1"]
    made = load("visa", visa, "candle")
    assert listed(made.train) == [f"train/good/{i:04d}.JPG" for i in (0, 1, 3, 5)]
    assert listed(made.test) == [
        "test/bad/000.JPG",
        "test/bad/001.JPG",
        "test/good/0002.JPG",
        "test/good/0004.JPG",
    ]
    assert made.test[0].image == visa / "candle/Data/Images/Anomaly/000.JPG"
    assert made.test[0].read_mask().any()
    assert not made.test[0].read_mask().all()
    assert made.check() == []


def test_visa_samples_have_the_same_names_in_both_layouts(visa, tree):
    by_table = load("visa", visa, "candle")
    tree(
        *(f"1cls/candle/{name}" for name in listed((*by_table.train, *by_table.test))),
        *(f"1cls/candle/ground_truth/bad/{i:03d}.png" for i in range(2)),
    )
    by_folders = load("visa", visa / "1cls", "candle")
    assert listed(by_folders.train) == listed(by_table.train)
    assert listed(by_folders.test) == listed(by_table.test)
    assert listed(shots(by_folders, 2, seed=1).train) == [
        "train/good/0003.JPG",
        "train/good/0005.JPG",
    ]
    assert isinstance(by_folders.test[0].image, Path)
    assert "1cls" in by_folders.test[0].image.parts


def test_visa_missing_files_and_wrong_tables(visa):
    table = visa / "split_csv/1cls.csv"
    with pytest.raises(DataError, match=r"1cls\.csv, line 10: lists .*pcb1.*0000\.JPG, which does"):
        load("visa", visa, "pcb1")
    with pytest.raises(DataError, match=r"expected a folder cashew, found candle, pcb1"):
        load("visa", visa, "cashew")
    with pytest.raises(InputError, match=r"'candel' is neither a category of VisA \(candle, caps"):
        load("visa", visa, "candel")

    (visa / "candle/Data/Masks/Anomaly/001.png").unlink()
    with pytest.raises(DataError, match=r"line 8: lists .*Masks/Anomaly/001\.png, which does not"):
        load("visa", visa, "candle")

    rewrite(table, lambda rows: rows[7].__setitem__(4, ""))
    with pytest.raises(DataError, match=r"line 8: anomalous image .*001\.JPG without a mask"):
        load("visa", visa, "candle")
    rewrite(table, lambda rows: rows[7].__setitem__(1, "train"))
    with pytest.raises(
        DataError, match=r"expected the one-class split .* got 'anomaly' in 'train'"
    ):
        load("visa", visa, "candle")
    rewrite(table, lambda rows: rows[7].pop())
    with pytest.raises(DataError, match=r"line 8: expected object, split, label, image, mask, got"):
        load("visa", visa, "candle")
    table.write_text("a,b\n")
    with pytest.raises(DataError, match=r"expected the columns object, .* got a, b"):
        load("visa", visa, "candle")
    table.write_bytes(b"")
    with pytest.raises(DataError, match="got an empty file"):
        load("visa", visa, "candle")
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as a table"):
        load("visa", visa, "candle")


@pytest.mark.parametrize("mask_folder", ["label", "anomaly_mask"])
@pytest.mark.parametrize("train", ["train/good/img", "train/good"])
def test_brats_slices(brats, mask_folder, train):
    root = brats(mask_folder, train)
    assert categories("brats2021", root) == ["brain"]
    made = load("brats2021", root)
    assert listed(made.train) == [f"{train}/0000{i}_60.png" for i in range(3)]
    assert [(s.label, s.defect) for s in made.test] == [(1, "Ungood")] * 2 + [(0, "good")] * 2
    assert made.test[0].name == "test/Ungood/img/00005_0.png"
    assert made.test[0].mask == root / f"test/Ungood/{mask_folder}/00005_0.png"
    assert load("brats2021", root, "brain") == made
    assert made.check() == []


def test_brats_takes_its_masks_from_ground_truth_too(tree, mvtec):
    root = tree(*mvtec("Brain"))
    made = load("brats2021", root)
    assert masks_of(made)["test/hole/001.png"] == "001_mask.png"


def test_brats_missing_mask_and_missing_mask_folder(brats):
    root = brats("label")
    (root / "test/Ungood/label/00005_1.png").unlink()
    with pytest.raises(
        DataError, match=r"img/00005_1\.png: anomalous image without a mask, .*label"
    ):
        load("brats2021", root)
    (root / "test/Ungood/label/00005_0.png").unlink()
    (root / "test/Ungood/label").rmdir()
    with pytest.raises(DataError, match=r"00005_0\.png: anomalous image without .*Ungood/label/00"):
        load("brats2021", root)


def test_headct_by_its_table(headct):
    made = load("headct", headct)
    assert (made.name, made.category) == ("headct", "head")
    assert listed(made.train) == ["head_ct/005.png", "head_ct/006.png"]
    assert [(s.name, s.label, s.defect) for s in made.test] == [
        *((f"head_ct/{i:03d}.png", 1, "hemorrhage") for i in range(5)),
        *((f"head_ct/{i:03d}.png", 0, "good") for i in (7, 8, 9)),
    ]
    assert made.test[0].read_mask() is None
    assert made.check() == []


def test_headct_reorganised_needs_no_masks(tree, mvtec):
    files = [file for file in mvtec("headct") if "ground_truth" not in file]
    root = tree(*files)
    for made in (load("headct", root), load("headct", root / "headct")):
        assert len(made.train) == 4
        assert all(sample.mask is None for sample in made.test)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id, bleeding\n0,1\n", "expected the columns id, hemorrhage, got id, bleeding"),
        ("id, hemorrhage\n0,yes\n", "line 2: expected two integers, got '0', 'yes'"),
        ("id, hemorrhage\n0,2\n", "line 2: expected hemorrhage 0 or 1, got 2"),
        ("id, hemorrhage\n0,1\n0,1\n", "line 3: expected each id once, got 0 again"),
        ("id, hemorrhage\n99,1\n", r"line 2: lists .*099\.png, which does not exist"),
        ("id, hemorrhage\n0,1\n", r"001\.png: expected a row for each image in .*labels\.csv"),
        (
            "id, hemorrhage\n" + "".join(f"{i},1\n" for i in range(10)),
            "expected at least 2 normal slices and 1 with a hemorrhage, got 0 and 10",
        ),
    ],
)
def test_headct_wrong_tables(headct, text, message):
    (headct / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load("headct", headct)


def test_foreign_files_are_ignored(tree, mvtec):
    root = tree(*mvtec("screw"))
    before = load("mvtec", root, "screw")
    for path in (
        "Thumbs.db",
        "screw/readme.txt",
        "screw/train/good/Thumbs.db",
        "screw/train/good/.DS_Store",
        "screw/train/good/._000.png",
        "screw/test/good/.hidden.png",
        "screw/test/notes.txt",
        "screw/test/.ipynb_checkpoints/000.png",
        "__MACOSX/screw/train/x",
        "screw/ground_truth/hole/.DS_Store",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"\x00")
    tree("screw/ground_truth/good/000.png")
    assert load("mvtec", root, "screw") == before
    assert categories("mvtec", root) == ["screw"]


def test_official_categories_need_no_root():
    assert len(categories("mvtec")) == 15
    assert len(categories("visa")) == 12
    assert categories("btad") == ["01", "02", "03"]
    for name in LAYOUTS:
        assert categories(name) == sorted(set(categories(name)))
        assert name in names()


def test_a_home_relative_root_is_expanded(tree, mvtec, monkeypatch):
    monkeypatch.setenv("HOME", str(tree(*mvtec("screw"))))
    assert len(load("mvtec", "~", "screw").train) == 4
