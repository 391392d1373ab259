import csv

import pytest

from robustad.training import train
from robustad.training.log import Log


def epochs(folder):
    return [row["epoch"] for row in csv.DictReader((folder / "log.csv").open())]


def events(folder, name):
    """Steps and values as TensorBoard would show them."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars(name)]


def test_a_row_an_epoch_in_both_files(tmp_path):
    with Log(tmp_path) as log:
        log.add({"epoch": 1, "loss": 2.0})
        log.add({"epoch": 2, "loss": 1.0, "val_robust_auroc": 0.5})
    text = (tmp_path / "log.csv").read_text()
    assert text == "epoch,loss,val_robust_auroc\n1,2.0,\n2,1.0,0.5\n"
    assert events(tmp_path, "loss") == [(1, 2.0), (2, 1.0)]
    assert events(tmp_path, "val_robust_auroc") == [(2, 0.5)]


def test_a_resumed_run_replaces_what_it_does_again(tmp_path):
    with Log(tmp_path) as log:
        for epoch in (1, 2, 3):
            log.add({"epoch": epoch, "loss": 0.0})
    with Log(tmp_path, [{"epoch": 1, "loss": 0.0}]) as log:
        log.add({"epoch": 2, "loss": 5.0})
    assert epochs(tmp_path) == ["1", "2"]
    assert events(tmp_path, "loss") == [(1, 0.0), (2, 5.0)]


def test_a_log_without_rows_leaves_no_file(tmp_path):
    with Log(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_kill_at_the_last_row_loses_none(images, tiny, tmp_path, monkeypatch):
    """The log goes first: a checkpoint never knows of an epoch that the log will not have."""
    add = Log.add

    def dying(self, row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt
        add(self, row)

    monkeypatch.setattr(Log, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        train(images, "fast", out=tmp_path, overrides=tiny)
    monkeypatch.undo()
    train(images, "fast", out=tmp_path, overrides=tiny)
    assert epochs(tmp_path) == ["1", "2", "3"]
    assert [step for step, _ in events(tmp_path, "loss")] == [1, 2, 3]


def test_a_finished_run_logs_nothing_more(images, tiny, tmp_path):
    train(images, "fast", out=tmp_path, overrides=tiny)
    before = sorted((tmp_path / "tensorboard").glob("*"))
    train(images, "fast", out=tmp_path, overrides=tiny)
    assert sorted((tmp_path / "tensorboard").glob("*")) == before
