from dataclasses import replace

import pytest
import torch
from PIL import Image

from robustad._files import folder_locked
from robustad.data import Dataset, content_hash
from robustad.errors import DataError, InputError, StateError, TrainingError
from robustad.training import checkpoint, preset, run, train
from robustad.training.trainer import CHECKPOINT, FINAL


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def masks_of(images, folder):
    folder.mkdir()
    for sample in images.train:
        Image.new("L", (64, 64), 255).save(folder / f"{sample.name.rpartition('/')[2]}.png")
    return {"foreground.method": "files", "foreground.folder": str(folder)}


def test_a_refused_run_changes_nothing_and_reads_nothing(images, tiny, tmp_path, monkeypatch):
    train(images, "fast", out=tmp_path, overrides=tiny)
    before = contents(tmp_path)
    monkeypatch.setattr(run, "read_images", lambda *_, **__: pytest.fail("images were read"))
    with pytest.raises(StateError, match=r"another seed \(0, not 1\)"):
        train(images, "fast", out=tmp_path, overrides=tiny | {"seed": 1})
    assert contents(tmp_path) == before


def test_a_folder_in_use_is_left_alone(images, tiny, tmp_path):
    half_written = tmp_path / ".0.part.safetensors"
    half_written.touch()
    with folder_locked(tmp_path):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(InputError, match=r"in use by another process; give each its own --out"):
            train(images, "fast", out=tmp_path, overrides=tiny)
        assert sorted(tmp_path.iterdir()) == before
    train(images, "fast", out=tmp_path, overrides=tiny)
    assert not half_written.exists()


def test_a_restart_that_fails_keeps_what_was_there(images, tiny, tmp_path):
    out = tmp_path / "run"
    train(images, "fast", out=out, overrides=tiny)
    before = contents(out)
    tiny |= masks_of(images, tmp_path / "masks")
    (tmp_path / "masks" / "002.png").write_bytes(b"no mask")
    with pytest.raises(DataError, match="foreground mask of train/good/002"):
        train(images, "fast", out=out, overrides=tiny, restart=True)
    assert contents(out) == before


def test_test_images_are_no_part_of_a_run(images, tiny, tmp_path, monkeypatch):
    train(images, "fast", out=tmp_path, overrides=tiny)
    monkeypatch.setattr("robustad.training.step.Step.update", lambda *_: pytest.fail("trained"))
    train(replace(images, test=images.test[1:]), "fast", out=tmp_path, overrides=tiny)


def test_checkpoints_that_knew_the_test_images_go_on(images, tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(run, "content_hash", lambda _: content_hash(images))
        train(images, "fast", out=tmp_path, overrides=tiny)
    assert checkpoint.read_progress(tmp_path / CHECKPOINT).data == content_hash(images)
    monkeypatch.setattr("robustad.training.step.Step.update", lambda *_: pytest.fail("trained"))
    train(images, "fast", out=tmp_path, overrides=tiny)
    with pytest.raises(StateError, match="on other training images"):
        train(replace(images, test=()), "fast", out=tmp_path, overrides=tiny)


def test_masks_that_changed_since(images, tiny, tmp_path):
    tiny |= masks_of(images, tmp_path / "masks")
    train(images, "fast", out=tmp_path / "run", overrides=tiny)
    mask = Image.new("L", (64, 64), 255)
    mask.putpixel((0, 0), 0)
    mask.save(tmp_path / "masks" / "001.png")
    with pytest.raises(StateError, match="other foregrounds, as their files have changed since"):
        train(images, "fast", out=tmp_path / "run", overrides=tiny)


def test_a_folder_that_cannot_be_written_to(images, tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(run, "read_images", lambda *_, **__: pytest.fail("images were read"))
    with pytest.raises(TrainingError, match=r"file.run: cannot be written to: .*Not a directory"):
        train(images, "fast", out=tmp_path / "file" / "run", overrides=tiny)


def test_the_folder_of_foregrounds_is_passed_on(images, tiny, tmp_path, monkeypatch):
    from robustad.training import images as module

    given = []

    def estimate(data, config, **options):
        given.append(options["cache"])
        return torch.ones(len(data.train), 32, 32, dtype=torch.bool)

    monkeypatch.setattr(module, "estimate", estimate)
    tiny |= {"optimiser.epochs": 1}
    train(images, "fast", out=tmp_path / "run", overrides=tiny, cache=tmp_path / "masks")
    assert given == [tmp_path / "masks"]


def test_a_configuration_can_be_overridden_too(images, tiny, tmp_path):
    config = preset("fast", tiny)
    detector = train(images, config, out=tmp_path, overrides={"optimiser.epochs": 1})
    assert preset(tmp_path / "config.yaml").optimiser.epochs == 1
    assert (tmp_path / FINAL).is_file()
    assert not detector.training


@pytest.mark.parametrize("size", [(3, 2), (9, 200)])
def test_images_smaller_than_a_patch_and_of_all_shapes(images, tiny, tmp_path, size):
    """They are stretched, whatever they were: documented, and no special case."""
    import numpy as np

    kinds = [np.uint8, np.uint16, np.float32]
    samples = []
    for index, sample in enumerate(images.train):
        pixels = np.random.default_rng(index).random((*size, 3) if index % 2 else size)
        kind = kinds[index % 3]
        top = 1 if kind is np.float32 else np.iinfo(kind).max
        samples.append(replace(sample, image=(pixels * top).astype(kind)))
    odd = Dataset(name="folder", category="odd", train=tuple(samples), test=())
    detector = train(odd, "fast", out=tmp_path, overrides=tiny | {"optimiser.epochs": 1})
    assert detector.predict(samples[0].image).anomaly_map[0].shape == size
