import runpy
import sys

import numpy as np
import pytest
from PIL import Image

from robustad.data.surfaces import (
    CATEGORIES,
    DEFECTS,
    Surfaces,
    load_surfaces,
    render,
)
from robustad.data.surfaces.hardness import difference_scores, statistic_scores, table
from robustad.data.surfaces.rendering import AREA, SCENES, VISIBLE, difference_mask
from robustad.errors import InputError
from robustad.metrics import auroc

FOLDERS = [
    (category, folder)
    for category in CATEGORIES
    for folder in ("train/good", "test/good", *(f"test/{kind}" for kind in DEFECTS[category]))
]
# Mean and standard deviation of three normal images, mean share of the masks of one image a kind.
# No hashes: mathematical libraries differ in the last bit.
GOLDEN = {
    "cloth": (0.5010, 0.0810, 0.01710),
    "metal": (0.4673, 0.1485, 0.01743),
    "print": (0.7042, 0.1433, 0.02480),
    "terrazzo": (0.6574, 0.0827, 0.02822),
    "tray": (0.3472, 0.1297, 0.01936),
}

# Made for attacks: its defects are too strong to be hidden by 8/255.
BOLD = "terrazzo"

# Everything of the default data set but its size, to halve the time.
SIZE = 192


def images(samples):
    return [sample.image for sample in samples]


def test_five_categories_with_four_kinds_of_defects_or_more():
    assert CATEGORIES == ("cloth", "metal", "print", "terrazzo", "tray")
    assert all(len(DEFECTS[category]) >= 4 for category in CATEGORIES)
    assert all(list(kinds) == sorted(set(kinds)) for kinds in DEFECTS.values())


@pytest.mark.parametrize("category", CATEGORIES)
def test_layout_of_a_category(category):
    data = load_surfaces(category, size=64, train=3, test_good=2, per_defect=1)
    assert (data.name, data.category) == ("surfaces", category)
    assert [sample.name for sample in data.train] == [f"train/good/{i:03d}" for i in range(3)]
    expected = [("good", 0), ("good", 1), *((kind, 0) for kind in DEFECTS[category])]
    assert [sample.name for sample in data.test] == sorted(
        f"test/{kind}/{i:03d}" for kind, i in expected
    )
    for sample in (*data.train, *data.test):
        assert sample.image.shape == (64, 64, 3)
        assert sample.image.dtype == np.uint8
        assert not sample.image.flags.writeable
        assert sample.label == (sample.defect != "good")
        assert (sample.mask is None) == (sample.label == 0)
        assert sample.read_mask().any() == sample.label


def test_class_and_function_agree_and_share_what_was_rendered():
    first = Surfaces(size=64, train=1, test_good=1, per_defect=0).load("tray")
    again = load_surfaces("tray", size=64, train=1, test_good=1, per_defect=0)
    assert again is first
    assert Surfaces() == Surfaces(size=256, train=32, test_good=24, per_defect=8, seed=0)


def test_no_images_asked_for():
    data = load_surfaces("metal", size=64, train=0, test_good=0, per_defect=0)
    assert data.train == data.test == ()


@pytest.mark.parametrize("category", CATEGORIES)
def test_an_image_depends_on_nothing_but_its_name(category):
    few = load_surfaces(category, size=64, train=2, test_good=1, per_defect=1)
    many = load_surfaces(category, size=64, train=3, test_good=2, per_defect=2)
    by_name = {sample.name: sample for sample in (*many.train, *many.test)}
    for sample in (*few.train, *few.test):
        assert np.array_equal(sample.image, by_name[sample.name].image)
        assert np.array_equal(sample.read_mask(), by_name[sample.name].read_mask())
    # Rendered once more, alone and in the opposite order.
    for sample in reversed((*many.train[:2], *many.test[::3])):
        folder, _, index = sample.name.rpartition("/")
        assert np.array_equal(render(category, folder, int(index), size=64).image, sample.image)


@pytest.mark.parametrize("category", CATEGORIES)
def test_images_seeds_and_splits_differ(category):
    seen = [
        render(category, folder, index, size=64, seed=seed).image
        for folder, index, seed in (
            ("train/good", 0, 0),
            ("train/good", 1, 0),
            ("train/good", 0, 1),
            ("test/good", 0, 0),
        )
    ]
    for i, first in enumerate(seen):
        for second in seen[:i]:
            assert np.abs(first.astype(int) - second).mean() > 3


@pytest.mark.parametrize(("category", "folder"), FOLDERS)
def test_mask_is_where_image_and_clean_twin_differ(category, folder):
    for index in range(2):
        rendered = render(category, folder, index, size=SIZE)
        difference = np.abs(rendered.image.astype(int) - rendered.clean).max(axis=-1)
        assert difference[~rendered.mask].max() <= VISIBLE
        if folder.endswith("good"):
            assert not rendered.mask.any()
            assert np.array_equal(rendered.image, rendered.clean)
        else:
            assert AREA[0] <= rendered.mask.mean() <= AREA[1]
            assert (difference[rendered.mask] > VISIBLE).mean() > 0.5


def test_difference_mask_closes_gaps_and_fills_holes_but_does_not_spill():
    clean = np.full((128, 128, 3), 90, np.uint8)
    image = clean.copy()
    image[0:20, 0:20] += VISIBLE + 1
    image[8:12, 8:12] = 90  # a hole
    image[40:60, 40:42, 1] -= VISIBLE + 1
    image[40:60, 43:45, 1] -= VISIBLE + 1  # a gap of a pixel
    image[100:110, 100:110] += VISIBLE  # not seen
    expected = np.zeros((128, 128), np.bool_)
    expected[0:20, 0:20] = True
    expected[40:60, 40:45] = True
    assert np.array_equal(difference_mask(image, clean), expected)


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("size", [64, 100])
def test_other_sizes_show_the_same_objects(category, size):
    folder = f"test/{DEFECTS[category][0]}"
    small = render(category, folder, 0, size=size)
    assert small.image.shape == (size, size, 3)
    assert small.mask.shape == (size, size)

    def coarse(rendered):
        picture = Image.fromarray(rendered.image).resize((16, 16), Image.Resampling.BOX)
        return np.asarray(picture, np.float64)

    same, other = (render(category, folder, index, size=192) for index in (0, 1))
    to_same, to_other = (np.abs(coarse(small) - coarse(large)).mean() for large in (same, other))
    assert to_same < 4
    assert to_same < 0.5 * to_other


@pytest.mark.parametrize("category", CATEGORIES)
def test_statistics_are_as_recorded(category):
    grey, spread, area = GOLDEN[category]
    good = [render(category, "train/good", index, size=128).image / 255 for index in range(3)]
    masks = [render(category, f"test/{kind}", 0, size=128).mask for kind in DEFECTS[category]]
    assert np.mean(good) == pytest.approx(grey, abs=0.01)
    assert np.std(good) == pytest.approx(spread, abs=0.01)
    assert np.mean(masks) == pytest.approx(area, abs=0.003)


@pytest.mark.parametrize("category", CATEGORIES)
def test_single_precision_throughout(category):
    """One stray double makes a renderer twice as slow."""
    scene = SCENES[category].draw(np.random.default_rng(0), 64)
    surfaces = [scene.surface]
    surfaces += [scene.damaged(kind, np.random.default_rng(1)) for kind in DEFECTS[category]]
    for surface in surfaces:
        for name in ("albedo", "height", "gloss", "tint"):
            assert getattr(surface, name).dtype == np.float32, name


@pytest.mark.parametrize("category", [name for name in CATEGORIES if name != BOLD])
def test_trivial_methods_fail(category):
    data = load_surfaces(category, size=SIZE)
    labels = [sample.label for sample in data.test]
    for name, scores in difference_scores(images(data.train), images(data.test)).items():
        assert auroc(scores, labels) < 0.75, name
    for name, scores in statistic_scores(images(data.test)).items():
        # Both ways round: a defect could make an image brighter or darker.
        assert 0.2 < auroc(scores, labels) < 0.8, name


def test_every_bold_defect_differs_by_more_than_an_attack_can_change():
    """Averaged over 4 x 4 of 64 x 64 pixels, by well over twice 8/255."""
    for kind in DEFECTS[BOLD]:
        for index in range(4):
            rendered = render(BOLD, f"test/{kind}", index, size=64)
            difference = rendered.image.astype(np.float64) - rendered.clean
            blocks = difference.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
            assert np.abs(blocks).max() > 2.5 * 2 * 8, (kind, index)


def test_whole_images_do_not_tell_bold_defects():
    data = load_surfaces(BOLD, size=SIZE)
    labels = [sample.label for sample in data.test]
    scores = difference_scores(images(data.train), images(data.test))
    scores["mean"] = statistic_scores(images(data.test))["mean"]
    assert max(auroc(scores[name], labels) for name in ("mean, average", "mean")) < 0.75
    # Single blocks do: a defect that an attack cannot hide is one that is plain to see.
    assert auroc(scores["mean, largest"], labels) > 0.95


@pytest.mark.parametrize("category", CATEGORIES)
def test_local_features_succeed(category):
    from robustad.detectors import AnomalyDINO

    data = load_surfaces(category, size=SIZE)
    detector = AnomalyDINO("filters", image_size=SIZE).fit(images(data.train[:4]))
    test = [
        sample for sample in data.test if int(sample.name[-3:]) < (9 if sample.label == 0 else 3)
    ]
    found = detector.predict(images(test))
    masks = np.stack([sample.read_mask() for sample in test])
    assert auroc(found.score, [sample.label for sample in test]) > 0.75
    assert auroc(np.stack(found.anomaly_map).ravel(), masks.ravel()) > 0.85


def test_hardness_table():
    text = table(categories=["print"], size=64, counts=(5, 3, 1))
    lines = text.splitlines()
    assert lines[0] == "| | print |"
    assert "| filters, 4 normal images: pixel |" in lines[-1]
    assert len(lines) == 2 + 4 + 3 + 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 63}, "size: expected >= 64 pixels, got 63"),
        ({"train": -1}, "train: expected >= 0, got -1"),
        ({"test_good": -2}, "test_good: expected >= 0, got -2"),
        ({"per_defect": -1}, "per_defect: expected >= 0, got -1"),
        ({"seed": -1}, "seed: expected >= 0, got -1"),
        (
            {"category": "wood"},
            "category: expected one of cloth, metal, print, terrazzo, tray, got 'wood'",
        ),
    ],
)
def test_refused_data_sets(arguments, message):
    with pytest.raises(InputError, match=message):
        load_surfaces(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wood", "test/good", 0), "category: expected one of cloth, metal, print, terrazzo, tray"),
        (("tray", "test/hole", 0), "folder: expected one of train/good, .*test/chip.* 'test/hole'"),
        (("tray", "good", 0), "folder: expected one of"),
        (("tray", "missing", 0), "folder: expected one of"),
        (("tray", "test/good", -1), "index: expected >= 0, got -1"),
    ],
)
def test_refused_images(arguments, message):
    with pytest.raises(InputError, match=message):
        render(*arguments)


def test_contact_sheet_is_written(tmp_path, monkeypatch, capsys):
    out = tmp_path / "sheet.png"
    monkeypatch.setattr(sys, "argv", ["surfaces", str(out), "--tile", "32"])
    runpy.run_module("robustad.data.surfaces", run_name="__main__")
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as sheet:
        columns = 1 + max(len(kinds) for kinds in DEFECTS.values())
        assert sheet.width == columns * 36 - 4
        pixels = np.asarray(sheet.convert("RGB"))
    # The first mask is that of a normal image, the second that of a defect.
    assert pixels[14 + 36 : 14 + 68, 0:32].max() == 0
    assert pixels[14 + 36 : 14 + 68, 36:68].max() == 255
