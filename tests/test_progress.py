import pytest

from robustad.progress import counter, track


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
