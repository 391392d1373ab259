import numpy as np
import pytest
from PIL import Image

from robustad.data import (
    Dataset,
    Sample,
    calibration_split,
    content_hash,
    folder,
    load,
    write_mvtec,
)
from robustad.data.surfaces import load_surfaces
from robustad.errors import DataError, InputError

RNG = np.random.default_rng(0)


def pixels(size=(9, 7)):
    return RNG.integers(0, 256, (*size, 3), np.uint8)


def mask(size=(9, 7)):
    out = np.zeros(size, np.bool_)
    out[1:4, 2:5] = True
    return out


def generated():
    return Dataset(
        name="surfaces",
        category="cloth",
        train=tuple(
            Sample(image=pixels(), label=0, name=f"train/good/{i:03d}.png") for i in range(3)
        ),
        test=(
            Sample(image=pixels(), label=0, name="test/good/000.png"),
            Sample(image=pixels(), label=1, name="test/hole/000.png", defect="hole", mask=mask()),
            Sample(
                image=pixels((5, 8)),
                label=1,
                name="test/cut/000.png",
                defect="cut",
                mask=mask((5, 8)),
            ),
        ),
    )


def same(left, right):
    for ours, theirs in zip((*left.train, *left.test), (*right.train, *right.test), strict=True):
        assert (ours.name, ours.label, ours.defect) == (theirs.name, theirs.label, theirs.defect)
        assert np.array_equal(ours.read(), theirs.read())
        assert np.array_equal(ours.read_mask(), theirs.read_mask())
    assert left.category == right.category
    assert len(left.train) == len(right.train)


def test_written_and_read_back_is_the_same(tmp_path):
    made = generated()
    path = write_mvtec(made, tmp_path / "new" / "root")
    assert path == tmp_path / "new/root/cloth"
    again = load("mvtec", path.parent, "cloth")
    same(made, again)
    assert again.check() == []
    truth = Image.open(path / "ground_truth/hole/000_mask.png")
    assert (truth.mode, set(np.unique(np.asarray(truth)))) == ("L", {0, 255})
    assert [entry.name for entry in path.parent.iterdir()] == ["cloth"]


def test_surfaces_are_written_and_read_back(tmp_path):
    made = load_surfaces("cloth", size=64, train=3, test_good=3, per_defect=2)
    write_mvtec(made, tmp_path)
    again = load("mvtec", tmp_path, "cloth")
    for ours, theirs in zip((*made.train, *made.test), (*again.train, *again.test), strict=True):
        assert (f"{ours.name}.png", ours.defect) == (theirs.name, theirs.defect)
        assert np.array_equal(ours.read(), theirs.read())
        assert np.array_equal(ours.read_mask(), theirs.read_mask())
    for ours, theirs in zip(
        calibration_split(made.test), calibration_split(again.test), strict=True
    ):
        assert [f"{sample.name}.png" for sample in ours] == [sample.name for sample in theirs]


def test_names_without_a_suffix_keep_their_dots(tmp_path):
    train = tuple(Sample(image=pixels(), label=0, name=f"part 1.{i}") for i in range(2))
    path = write_mvtec(Dataset(name="x", category="c", train=train, test=()), tmp_path)
    assert [s.name for s in folder(path).train] == [
        "train/good/part 1.0.png",
        "train/good/part 1.1.png",
    ]


def test_files_on_disk_are_written_and_read_back(tree, mvtec, tmp_path):
    made = load("mvtec", tree(*mvtec("screw")), "screw")
    write_mvtec(made, tmp_path / "copy")
    again = load("mvtec", tmp_path / "copy", "screw")
    same(made, again)
    assert content_hash(again) == content_hash(made)


def test_other_formats_become_png(tree, tmp_path):
    root = tree("good/a.jpg", "good/b.bmp", "good/c.png", "bad/d.tif", "bad/e.webp", "masks/d.bmp")
    made = folder(root, test_fraction=0.3)
    path = write_mvtec(made, tmp_path / "copy")
    again = folder(path)
    assert {s.name for s in (*again.train, *again.test)} == {
        *(f"train/good/{sample.name[5]}.png" for sample in made.train),
        *(f"test/good/{s.name[5]}.png" for s in made.test if not s.label),
        "test/bad/d.png",
        "test/bad/e.png",
    }
    before = {s.name.split("/")[-1][0]: s for s in (*made.train, *made.test)}
    for sample in (*again.train, *again.test):
        assert np.array_equal(sample.read(), before[sample.name.split("/")[-1][0]].read())
    by_name = {s.name: s for s in again.test}
    assert by_name["test/bad/d.png"].read_mask().any()
    assert by_name["test/bad/e.png"].read_mask() is None


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_sixteen_bit_grey_is_kept(tmp_path, suffix):
    values = RNG.integers(0, 65536, (6, 5)).astype(np.uint16)
    path = tmp_path / f"own/deep.{suffix}"
    path.parent.mkdir()
    Image.fromarray(values).save(path)
    made = folder(tmp_path / "own")
    assert len(np.unique(made.train[0].read())) > 20
    write_mvtec(made, tmp_path / "copy")
    again = folder(tmp_path / "copy" / "own")
    assert np.array_equal(again.train[0].read(), made.train[0].read())


def test_an_existing_category_is_not_touched_unless_asked(tmp_path):
    made = generated()
    write_mvtec(made, tmp_path)
    (tmp_path / "cloth/extra.txt").write_text("mine")
    with pytest.raises(InputError, match="cloth: exists and is not empty; pass overwrite=True"):
        write_mvtec(made, tmp_path)
    assert (tmp_path / "cloth/extra.txt").read_text() == "mine"
    write_mvtec(made, tmp_path, overwrite=True)
    assert not (tmp_path / "cloth/extra.txt").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["cloth"]
    same(made, load("mvtec", tmp_path, "cloth"))


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "cloth").mkdir()
    write_mvtec(generated(), tmp_path)
    assert len(load("mvtec", tmp_path, "cloth").train) == 3


def test_a_set_can_replace_itself(tmp_path):
    write_mvtec(generated(), tmp_path)
    made = load("mvtec", tmp_path, "cloth")
    before = content_hash(made)
    write_mvtec(made, tmp_path, overwrite=True)
    assert content_hash(load("mvtec", tmp_path, "cloth")) == before


def test_a_failure_leaves_nothing_behind(tree, mvtec, tmp_path):
    root = tree(*mvtec("screw"))
    (root / "screw/test/hole/002.png").write_bytes(b"no image")
    made = load("mvtec", root, "screw")
    with pytest.raises(DataError, match=r"002\.png: cannot be read"):
        write_mvtec(made, tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []
    keep = write_mvtec(generated(), tmp_path / "copy")
    kept = content_hash(load("mvtec", keep.parent, "cloth"))
    broken = Dataset(name="x", category="cloth", train=made.train, test=made.test)
    with pytest.raises(DataError, match="cannot be read"):
        write_mvtec(broken, tmp_path / "copy", overwrite=True)
    assert content_hash(load("mvtec", keep.parent, "cloth")) == kept
    assert [entry.name for entry in (tmp_path / "copy").iterdir()] == ["cloth"]


def test_a_failed_rename_puts_the_old_category_back(tmp_path, monkeypatch):
    write_mvtec(generated(), tmp_path)
    kept = content_hash(load("mvtec", tmp_path, "cloth"))
    path_type = type(tmp_path)
    rename = path_type.rename

    def refuse(path, target):
        if path.suffix == ".part":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(path_type, "rename", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_mvtec(generated(), tmp_path, overwrite=True)
    assert content_hash(load("mvtec", tmp_path, "cloth")) == kept
    assert [entry.name for entry in tmp_path.iterdir()] == ["cloth"]


def one(name="a.png", label=1, defect="hole", category="cloth"):
    sample = Sample(image=pixels(), label=label, name=name, defect=defect)
    return Dataset(name="x", category=category, train=(), test=(sample,))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (one(defect="good"), "a.png: anomalous, expected a defect class, got 'good'"),
        (one(defect="a/b"), "defect of a.png: expected a name for a folder, got 'a/b'"),
        (one(defect=".."), "expected a name for a folder, got '..'"),
        (one(category="../x"), "category: expected a name for a folder, got '../x'"),
        (one(category=""), "category: expected a name for a folder, got ''"),
        (
            Dataset(
                name="x",
                category="c",
                train=(),
                test=(*one("a/0.png").test, *one("b/0.jpg").test),
            ),
            "b/0.jpg and a/0.png: would both be written to test/hole/0.png",
        ),
    ],
)
def test_what_cannot_be_written(tmp_path, made, message):
    with pytest.raises(DataError, match=message):
        write_mvtec(made, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "cloth").write_text("")
    with pytest.raises(InputError, match="cloth: expected a folder to write to, got a file"):
        write_mvtec(generated(), tmp_path)
    with pytest.raises(InputError, match="expected a folder to write to, got a file"):
        write_mvtec(generated(), tmp_path / "cloth")
    with pytest.raises(InputError, match="a parent of it is not a folder"):
        write_mvtec(generated(), tmp_path / "cloth" / "deep")
