import math

import pytest
import torch

from robustad.errors import StateError, TrainingError
from robustad.training import checkpoint, train
from robustad.training.checkpoint import Progress
from robustad.training.step import Step
from robustad.training.trainer import BEST, CHECKPOINT
from robustad.training.validation import Found, Validation


def test_figures_that_are_no_numbers_come_back(tmp_path):
    rows = [{"epoch": 1, "loss": math.inf, "gradient_norm": math.nan}]
    progress = Progress(config={"seed": 0}, data="abc", epoch=1, history=rows)
    checkpoint.write(tmp_path / "a.safetensors", progress, {"x": torch.ones(2)})
    found, tensors = checkpoint.read(tmp_path / "a.safetensors")
    assert found.history[0]["loss"] == math.inf
    assert math.isnan(found.history[0]["gradient_norm"])
    assert torch.equal(tensors["x"], torch.ones(2))
    assert checkpoint.read_progress(tmp_path / "a.safetensors").data == "abc"


def test_a_checkpoint_of_before_foregrounds_were_known():
    old = Progress.model_validate_json('{"config": {}, "data": "abc", "epoch": 3}')
    checkpoint.check_same(None, old, Progress(config={}, data="abc", foreground="def"))
    new = Progress(config={}, data="abc", foreground="other")
    with pytest.raises(StateError, match=r"run\.x: is of a run with other foregrounds"):
        checkpoint.check_same("run.x", new, Progress(config={}, data="abc", foreground="def"))


def scripted(monkeypatch, scores):
    """Give validations these robust AUROCs, in turn."""
    left = iter(scores)

    def run(self, *_):
        score = next(left)
        figures = {"val_clean_auroc": 1.0, "val_robust_auroc": score, "val_robust_loss": 1.0}
        return Found(1.0, score, 1.0, figures)

    monkeypatch.setattr(Validation, "run", run)


def dying_at(monkeypatch, name, epoch):
    """Be killed while a file is written."""
    write = checkpoint.write

    def killed(path, progress, tensors):
        if path.name == name and progress.epoch == epoch:
            raise KeyboardInterrupt
        write(path, progress, tensors)

    monkeypatch.setattr(checkpoint, "write", killed)


@pytest.mark.parametrize("name", [CHECKPOINT, BEST])
def test_a_kill_while_better_weights_are_kept(images, tiny, tmp_path, monkeypatch, name):
    """On GPUs the epoch done again may come out worse; what was best before must be there then."""
    scripted(monkeypatch, [0.5, 0.9])
    dying_at(monkeypatch, name, 2)
    with pytest.raises(KeyboardInterrupt):
        train(images, "fast", out=tmp_path, overrides=tiny)
    monkeypatch.undo()
    scripted(monkeypatch, [0.4, 0.4])
    train(images, "fast", out=tmp_path, overrides=tiny)
    best = checkpoint.read_progress(tmp_path / BEST).best_epoch
    assert best == (1 if name == CHECKPOINT else 2)


@pytest.mark.parametrize("damage", ["missing", "older"])
def test_best_weights_that_are_not_there_are_missed_at_once(
    images, tiny, tmp_path, monkeypatch, damage
):
    scripted(monkeypatch, [0.5, 0.9, 0.4])
    kept = []
    write = checkpoint.write

    def copied(path, progress, tensors):
        write(path, progress, tensors)
        if path.name == BEST:
            kept.append(path.read_bytes())

    monkeypatch.setattr(checkpoint, "write", copied)
    train(images, "fast", out=tmp_path, overrides=tiny)
    (tmp_path / BEST).unlink()
    message = r"best\.safetensors: not a readable checkpoint"
    if damage == "older":
        (tmp_path / BEST).write_bytes(kept[0])
        message = "expected the weights after epoch 2, got those after epoch 1; give another --out"
    monkeypatch.setattr(Step, "update", lambda *_: pytest.fail("trained without them"))
    with pytest.raises(StateError, match=message):
        train(images, "fast", out=tmp_path, overrides=tiny)


def test_a_full_disk(images, tiny, tmp_path, monkeypatch):
    whole = train(images, "fast", out=tmp_path / "whole", overrides=tiny)
    save_file, calls = checkpoint.save_file, []

    def full(tensors, path, metadata=None):
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"as far as it went")
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainingError, match=r"full: cannot be written to: .*No space left"):
        train(images, "fast", out=tmp_path / "full", overrides=tiny)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "full").glob(".*")] == [".lock"]
    again = train(images, "fast", out=tmp_path / "full", overrides=tiny)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
