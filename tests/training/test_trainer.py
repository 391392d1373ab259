import csv
import math

import pytest
import torch

import robustad
from robustad.data import Dataset
from robustad.errors import DataError, InputError, StateError, TrainingError
from robustad.training import train
from robustad.training.step import Step
from robustad.training.trainer import BEST, CHECKPOINT, FINAL


def weights(detector):
    return {name: tensor.clone() for name, tensor in detector.network.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def test_a_run_leaves_a_detector_a_log_and_its_configuration(images, tiny, tmp_path):
    said = []
    detector = train(images, "fast", out=tmp_path, overrides=tiny, say=said.append)
    assert not detector.training
    loaded = robustad.load(tmp_path / FINAL)
    x = detector.prepare(images.test[0].image)
    with torch.no_grad():
        assert torch.equal(loaded.patch_scores(x), detector.patch_scores(x))
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert 0 <= float(rows[-1]["val_robust_auroc"]) <= float(rows[-1]["val_clean_auroc"]) <= 1
    assert float(rows[-1]["degree/discriminator"]) > 0
    assert robustad.training.preset(tmp_path / "config.yaml").optimiser.epochs == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        BEST,
        CHECKPOINT,
        "config.yaml",
        FINAL,
        "log.csv",
        "tensorboard",
    ]
    assert "6 images to train on, 1 to validate on" in said[0]
    assert said[-1].startswith("epoch 3: loss ")


@pytest.mark.parametrize("more", [{}, {"optimiser.ema": 0.9, "attack.start": "warm"}])
def test_a_run_killed_again_and_again_ends_as_one_left_alone(
    images, tiny, tmp_path, monkeypatch, more
):
    """Ten kills at different places: before and after updates, and while a file is written."""
    tiny |= {"optimiser.epochs": 8, "network.discriminator_dropout": 0.2} | more
    whole = train(images, "fast", out=tmp_path / "whole", overrides=tiny)
    update, saved = Step.update, []
    from robustad.training import checkpoint

    save_file = checkpoint.save_file
    generator = torch.Generator().manual_seed(1)
    kills = 0
    for _ in range(10):
        left = int(torch.randint(0, 4, (), generator=generator))
        in_file = bool(torch.rand((), generator=generator) < 0.4)

        def dying(self, batch, *, counted=[left], in_file=in_file):  # noqa: B006
            counted[0] -= 1
            if not in_file and counted[0] < 0:
                raise KeyboardInterrupt
            return update(self, batch)

        def half(tensors, path, metadata=None, *, in_file=in_file, counted=[left]):  # noqa: B006
            counted[0] -= 1
            if in_file and counted[0] < 0:
                path.write_bytes(b"half a file")
                raise KeyboardInterrupt
            saved.append(path)
            save_file(tensors, path, metadata=metadata)

        monkeypatch.setattr(Step, "update", dying)
        monkeypatch.setattr(checkpoint, "save_file", half)
        try:
            train(images, "fast", out=tmp_path / "killed", overrides=tiny)
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 5
    monkeypatch.undo()
    resumed = train(images, "fast", out=tmp_path / "killed", overrides=tiny)
    assert_same(weights(whole), weights(resumed))
    read = [
        [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in csv.DictReader((tmp_path / run / "log.csv").open())
        ]
        for run in ("whole", "killed")
    ]
    assert read[0] == read[1]
    assert not list((tmp_path / "killed").glob(".*part*"))


def test_a_finished_run_is_not_trained_again(images, tiny, tmp_path, monkeypatch):
    first = train(images, "fast", out=tmp_path, overrides=tiny)
    half = tmp_path / ".0123456789abcdef.part.safetensors"  # what a kill in mid-write leaves
    half.write_bytes(b"half")
    monkeypatch.setattr(Step, "update", lambda *_: pytest.fail("trained again"))
    assert_same(weights(first), weights(train(images, "fast", out=tmp_path, overrides=tiny)))
    assert not half.exists()


def test_restart_begins_anew(images, tiny, tmp_path):
    train(images, "fast", out=tmp_path, overrides=tiny)
    other = tiny | {"seed": 1}
    with pytest.raises(StateError, match=r"another seed \(0, not 1\); give another --out, or --re"):
        train(images, "fast", out=tmp_path, overrides=other)
    anew = train(images, "fast", out=tmp_path, overrides=other, restart=True)
    alone = train(images, "fast", out=tmp_path / "alone", overrides=other)
    assert_same(weights(anew), weights(alone))


def test_another_data_set_is_refused(images, tiny, tmp_path):
    train(images, "fast", out=tmp_path, overrides=tiny)
    fewer = Dataset(
        name=images.name, category=images.category, train=images.train[1:], test=images.test
    )
    with pytest.raises(StateError, match="on other training images"):
        train(fewer, "fast", out=tmp_path, overrides=tiny)


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_damaged_checkpoint(images, tiny, tmp_path, content):
    train(images, "fast", out=tmp_path, overrides=tiny)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(StateError, match=r"checkpoint\.safetensors: not a readable checkpoint"):
        train(images, "fast", out=tmp_path, overrides=tiny)


def test_a_detector_is_no_checkpoint(images, tiny, tmp_path):
    train(images, "fast", out=tmp_path, overrides=tiny)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / FINAL).read_bytes())
    with pytest.raises(StateError, match="no checkpoint of a training run"):
        train(images, "fast", out=tmp_path, overrides=tiny)


def test_a_loss_that_is_not_finite_stops_with_the_checkpoint_intact(
    images, tiny, tmp_path, monkeypatch
):
    whole = train(images, "fast", out=tmp_path / "whole", overrides=tiny)
    attacked, calls = Step.attacked, []

    def poisoned(self, *args, **kwargs):
        batch = attacked(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 4:
            batch.x[0, 0, 0, 0] = float("nan")
        return batch

    monkeypatch.setattr(Step, "attacked", poisoned)
    with pytest.raises(TrainingError, match=r"not finite .* in epoch 2, step 2; .* after epoch 1"):
        train(images, "fast", out=tmp_path / "nan", overrides=tiny)
    monkeypatch.undo()
    again = train(images, "fast", out=tmp_path / "nan", overrides=tiny)
    assert_same(weights(whole), weights(again))


def test_a_category_of_two_images_trains(images, tiny, tmp_path):
    two = Dataset(
        name=images.name, category=images.category, train=images.train[:2], test=images.test
    )
    said = []
    train(two, "fast", out=tmp_path, overrides=tiny, say=said.append)
    assert "2 images to train on, 2 to validate on" in said[0]


def test_a_category_of_one_image_does_not(images, tiny, tmp_path):
    one = Dataset(
        name=images.name, category=images.category, train=images.train[:1], test=images.test
    )
    with pytest.raises(DataError, match=r"surfaces tray: expected at least 2 .* got 1"):
        train(one, "fast", out=tmp_path, overrides=tiny)


def test_early_stopping(images, tiny, tmp_path):
    # a learning rate of nearly nothing: no validation is better than the first
    tiny |= {"optimiser.epochs": 9, "optimiser.lr": 1e-12, "validation.patience": 2}
    train(images, "fast", out=tmp_path, overrides=tiny)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert 3 <= len(rows) < 9


def test_the_best_weights_are_kept(images, tiny, tmp_path):
    tiny |= {"optimiser.epochs": 4, "optimiser.lr": 0.02}
    detector = train(images, "fast", out=tmp_path, overrides=tiny)
    from robustad.training import checkpoint

    progress, tensors = checkpoint.read(tmp_path / BEST)
    rows = [
        (float(r["val_robust_auroc"]), -float(r["val_robust_loss"]))
        for r in csv.DictReader((tmp_path / "log.csv").open())
    ]
    assert progress.best_epoch == 1 + max(range(4), key=rows.__getitem__)
    assert_same(weights(detector), checkpoint.unprefixed("network", tensors))


def test_chunks_change_rounding_only(images, tiny, tmp_path):
    tiny |= {"network.discriminator_dropout": 0.0, "optimiser.epochs": 1}
    whole = weights(train(images, "fast", out=tmp_path / "whole", overrides=tiny))
    chunked = weights(
        train(images, "fast", out=tmp_path / "chunks", overrides=tiny | {"optimiser.chunk": 5})
    )
    before = weights(
        train(images, "fast", out=tmp_path / "none", overrides=tiny | {"optimiser.lr": 1e-12})
    )
    for name, tensor in whole.items():
        moved = (tensor - before[name]).abs().max()
        # Adam divides by the gradient's size, which magnifies its rounding where it is tiny
        assert (tensor - chunked[name]).abs().mean() <= 0.02 * moved + 1e-7, name


def test_without_attack_steps_it_trains_on_clean_images(images, tiny, tmp_path, monkeypatch):
    seen = []
    update = Step.update
    monkeypatch.setattr(
        Step, "update", lambda self, b: (seen.append(b.x.shape[0] / b.normal), update(self, b))[1]
    )
    train(images, "fast", out=tmp_path, overrides=tiny | {"attack.steps": 0})
    assert set(seen) == {2.0}


def test_training_learns_what_it_is_shown(images, tiny, tmp_path):
    """The loss on a handful of images falls well below that of a guess, ln 2 a term."""
    tiny |= {
        "optimiser.epochs": 12,
        "optimiser.repeats": 4,
        "optimiser.lr": 3e-3,
        "optimiser.warmup": 1,
        "network.discriminator_dropout": 0.0,
        "attack.steps": 0,
        "regulariser.term": "none",
        "validation.every": 0,
    }
    train(images, "fast", out=tmp_path, overrides=tiny)
    losses = [float(r["loss"]) for r in csv.DictReader((tmp_path / "log.csv").open())]
    assert losses[-1] < 0.85 * 2 * math.log(2)


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_a_device_that_is_not_there(images, tiny, tmp_path, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="device: expected"):
        train(images, "fast", out=tmp_path, overrides=tiny, device=device)


def test_the_caller_s_random_numbers_are_left_alone(images, tiny, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    train(images, "fast", out=tmp_path, overrides=tiny | {"optimiser.epochs": 1})
    assert torch.equal(torch.rand(3), expected)


def test_an_empty_foreground(images, tiny, tmp_path):
    from PIL import Image

    masks = tmp_path / "masks"
    masks.mkdir()
    for index, sample in enumerate(images.train):
        value = 0 if index == 2 else 255
        name = sample.name.rpartition("/")[2]
        Image.new("L", (64, 64), value).save(masks / f"{name}.png")
    tiny |= {"foreground.method": "files", "foreground.folder": str(masks)}
    with pytest.raises(DataError, match=r"foreground of train/good/002 is empty: mend the mask"):
        train(images, "fast", out=tmp_path / "run", overrides=tiny)
    assert not (tmp_path / "run" / CHECKPOINT).exists()
    whole = tiny | {"pseudo.empty_foreground": "whole", "optimiser.epochs": 1}
    train(images, "fast", out=tmp_path / "run", overrides=whole)
