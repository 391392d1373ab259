import numpy as np
from PIL import Image

from robustad.data import load
from robustad.data.surfaces import Surfaces


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def small(monkeypatch):
    from robustad import data

    made = Surfaces(size=64, train=3, test_good=1, per_defect=1)
    monkeypatch.setattr(data, "load", lambda name, root, category: made.load(category))
    assert load is not data.load


def test_it_writes_the_same_picture_for_the_same_seed(run, tmp_path, monkeypatch):
    small(monkeypatch)
    shown = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / "new" / f"{name}.png"
        code, printed, err = run(
            "preview", "--category", "tray", "--count", 2, "--image-size", 48, "--seed", seed,
            "--out", out, "--quiet",
        )  # fmt: skip
        assert code == 0, err
        assert f"wrote {out}" in err.replace("\n", "")
        assert printed == ""
        shown[name] = picture(out)
    assert shown["a"].shape[0] == 3 * 52 + 4
    np.testing.assert_array_equal(shown["a"], shown["b"])
    assert (shown["a"] != shown["c"]).any()


def test_more_than_there_are_shows_all(run, tmp_path, monkeypatch):
    small(monkeypatch)
    wide, narrow = tmp_path / "wide.png", tmp_path / "narrow.png"
    for out, count in ((wide, 99), (narrow, 2)):
        code, _, err = run(
            "preview", "--category", "cloth", "--count", count, "--image-size", 48, "--out", out,
        )  # fmt: skip
        assert code == 0, err
    assert picture(wide).shape[1] - picture(narrow).shape[1] == 52
    left = picture(narrow).shape[1] - 4
    np.testing.assert_array_equal(picture(wide)[:, :left], picture(narrow)[:, :left])


def test_foregrounds_from_files(run, tmp_path, surfaces_root, category):
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in (category / "train" / "good").iterdir():
        mask = np.zeros((64, 64), np.uint8)
        mask[8:56, 8:56] = 255
        Image.fromarray(mask).save(masks / path.name)
    out = tmp_path / "p.png"
    options = ("preview", "--dataset", "mvtec", "--data", surfaces_root, "--image-size", 64)
    code, _, err = run(*options, "--foreground", "files", "--masks", masks, "--out", out)
    assert code == 0, err
    first = picture(out)[4:68, 60:124].astype(int)
    green = (first == [0, 255, 89]).all(axis=2)
    assert green.sum() == 4 * 47
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(masks / "000.png")
    code, _, err = run(*options, "--foreground", "files", "--masks", masks, "--out", out)
    assert code == 1
    assert "at least one pixel in each image, got none in train/good/000.png" in err


def test_it_shows_what_a_preset_trains_on(run, tmp_path, monkeypatch):
    """Size and bounds are those of the network and the preset, unless an option says otherwise."""
    small(monkeypatch)
    base = ("preview", "--category", "tray", "--count", 1, "--quiet")
    shown = {}
    for name, more in {
        "fast": ("--preset", "fast"),
        "again": ("--preset", "fast", "--image-size", 64),
        "large": ("--preset", "fast", "--set", "pseudo.size=[200,220]", "network.image_size=64"),
    }.items():
        code, _, err = run(*base, *more, "--out", tmp_path / f"{name}.png")
        assert code == 0, err
        shown[name] = picture(tmp_path / f"{name}.png")
        assert shown[name].shape[0] == 3 * 68 + 4
    np.testing.assert_array_equal(shown["fast"], shown["again"])
    mask = {name: (one[4 + 2 * 68 : -4, 60:124] == 255).all(axis=2) for name, one in shown.items()}
    assert mask["large"].mean() > 0.3 > mask["fast"].mean()
    code, _, err = run(*base, "--set", "pseudo.sise=[2,3]", "--out", tmp_path / "p.png")
    assert code == 1
    assert "pseudo.sise: there is no such field; did you mean pseudo.size?" in err


def test_normal_images_are_augmented_as_in_training(run, tmp_path, monkeypatch):
    small(monkeypatch)
    base = ("preview", "--category", "tray", "--count", 1, "--image-size", 48, "--quiet")
    shown = {}
    for name, more in {
        "plain": (),
        "same": ("--set", "augmentation.brightness=0"),
        "bright": ("--set", "augmentation.brightness=0.9"),
    }.items():
        code, _, err = run(*base, *more, "--out", tmp_path / f"{name}.png")
        assert code == 0, err
        shown[name] = picture(tmp_path / f"{name}.png")[6:50, 62:106].astype(int)
    np.testing.assert_array_equal(shown["plain"], shown["same"])
    assert abs(shown["bright"] - shown["plain"]).mean() > 5


def test_a_preset_with_masks_can_be_looked_at_without(run, tmp_path, monkeypatch):
    small(monkeypatch)
    given = ("--set", "foreground.method=files", f"foreground.folder={tmp_path / 'none'}")
    base = ("preview", "--category", "tray", "--count", 1, "--image-size", 48, *given)
    code, _, err = run(*base, "--out", tmp_path / "p.png")
    assert code == 1
    assert "expected a folder with foreground masks" in err
    code, _, err = run(*base, "--foreground", "whole", "--out", tmp_path / "p.png")
    assert code == 0, err


def test_errors_name_the_option(run, tmp_path):
    code, _, err = run("preview", "--category", "tray", "--out", tmp_path / "p.txt")
    assert code == 1
    assert "--out: expected a .png, .jpg or .webp file" in err
    code, _, err = run("preview", "--category", "tray", "--masks", tmp_path)
    assert code == 1
    assert "--masks: only --foreground files takes them, got auto" in err
    code, _, err = run("preview")
    assert code == 1
    assert "--category: expected one of cloth, metal, print, terrazzo, tray" in err
    assert run("preview", "--foreground", "magic")[0] == 2
    code, out, _ = run("preview", "--help")
    assert code == 0
    assert "--foreground" in out
