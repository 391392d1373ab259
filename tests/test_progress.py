import pytest

from robustad.progress import _bar, counter, status, track


@pytest.mark.parametrize("enabled", [True, False])
def test_items_pass_through_and_standard_output_stays_empty(enabled, capsys):
    assert list(track([1, 2, 3], "fit", enabled=enabled)) == [1, 2, 3]
    assert list(track(iter("abc"), "fit", total=3, enabled=enabled)) == ["a", "b", "c"]
    assert list(track(iter("abc"), "fit", enabled=enabled)) == ["a", "b", "c"]
    assert list(track([], "fit", enabled=enabled)) == []
    assert capsys.readouterr().out == ""


def test_a_bar_is_drawn_on_standard_error_and_removed(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    list(track(range(4), "scoring", enabled=True))
    with counter("calibrating") as move:
        move(2, 7)
    out, err = capsys.readouterr()
    assert out == ""
    assert "scoring" in err
    assert "4/4" in err
    assert "calibrating" in err
    assert "2/7" in err


def test_nothing_is_drawn_when_disabled(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    list(track(range(4), "scoring", enabled=False))
    with counter("calibrating", enabled=False) as move:
        move(2, 7)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("enabled", [True, False])
def test_errors_pass_through(enabled):
    def items():
        yield 1
        raise ValueError("torn")

    taken = track(items(), "fit", enabled=enabled)
    assert next(taken) == 1
    with pytest.raises(ValueError, match="torn"):
        next(taken)


def test_bars_may_be_nested():
    assert [(a, b) for a in track([1, 2], "outer") for b in track([3, 4], "inner")] == [
        (1, 3),
        (1, 4),
        (2, 3),
        (2, 4),
    ]


def test_steps_of_minutes_have_a_time_left():
    """A step of ViT-S/14 takes a minute on a CPU; rich alone forgets it after half of one."""
    clock = [0.0]
    bar = _bar()
    bar.get_time = lambda: clock[0]
    task = bar.add_task("train", total=10)
    for done in (1, 2, 3):
        clock[0] += 65.0
        bar.update(task, completed=done)
    assert bar.tasks[0].time_remaining == pytest.approx(7 * 65, rel=0.01)


def test_a_run_that_goes_on_has_the_speed_of_now():
    """Steps done before it was stopped count as done, not as fast."""
    clock = [0.0]
    bar = _bar()
    bar.get_time = lambda: clock[0]
    task = bar.add_task("train", total=1000)
    for done in (901, 902, 903):
        clock[0] += 10.0
        bar.update(task, completed=done)
    assert bar.tasks[0].time_remaining == pytest.approx(97 * 10, rel=0.01)


def test_figures_are_shown_behind_the_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with status("train", 7) as show:
        show(3, "loss 0.250  robust AUROC 0.750")
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/7" in err
    assert "robust AUROC 0.750" in err
    with status("train", 7, enabled=False) as show:
        show(3, "quiet")
    assert capsys.readouterr() == ("", "")
