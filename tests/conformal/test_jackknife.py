import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.conformal import JackknifePlus, jackknife_plus_p_values, p_values
from robustad.errors import InputError


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5))
def test_by_counting(seed, n, count):
    rng = np.random.default_rng(seed)
    folds = int(rng.integers(1, n + 1))
    left_out, fold = rng.integers(0, 6, n).astype(float), rng.integers(0, folds, n)
    scores = rng.integers(0, 6, (count, folds)).astype(float)
    expected = [
        (1 + sum(s >= row[f] for s, f in zip(left_out, fold, strict=True))) / (n + 1)
        for row in scores
    ]
    assert jackknife_plus_p_values(scores, left_out, fold).tolist() == expected


def nearest(points, bank):
    """The detector of these tests: distance to the nearest point of the bank."""
    return np.abs(points[:, None] - bank[None]).min(axis=1)


def centred(points, bank):
    """One whose scores one more point may raise: distance from the mean, in deviations."""
    return np.abs(points - bank.mean()) / bank.std()


def held_out_of(detector, points):
    return np.array(
        [detector(points[i : i + 1], np.delete(points, i))[0] for i in range(points.size)]
    )


@pytest.mark.parametrize("detector", [nearest, centred])
@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_the_rates_of_both_kinds(detector, draw):
    """Leave-one-out keeps alpha for a monotone detector, jackknife+ 2 alpha for any."""
    rng = np.random.default_rng(0)
    runs, n, alpha = 1200, 9, 0.2
    alone, plus = [], []
    for _ in range(runs):
        points = getattr(rng, draw)(size=n + 1) if draw == "normal" else rng.exponential(size=n + 1)
        bank, new = points[:n], points[n:]
        held_out = held_out_of(detector, bank)
        alone.append(p_values(detector(new, bank), held_out)[0])
        without = np.array([detector(new, np.delete(bank, i))[0] for i in range(n)])
        plus.append(jackknife_plus_p_values(without[None], held_out)[0])
    alone, plus = np.array(alone), np.array(plus)
    error = 3 * np.sqrt(alpha / runs)
    assert (plus <= alpha).mean() <= 2 * alpha + error
    if detector is nearest:
        assert (alone >= plus).all()
        assert (alone <= alpha).mean() <= alpha + error


def test_leave_one_out_can_break_its_rate():
    """Why no promise is made in general: a detector that remembers how many it has seen."""
    rng = np.random.default_rng(0)

    def rising(points, bank):
        return rng.random(points.size) + 10 * (bank.size > 4)

    held_out = held_out_of(rising, np.arange(5.0))  # by detectors fitted on four
    assert p_values(rising(np.zeros(50), np.arange(5.0)), held_out).max() == 1 / 6


def test_of_images():
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    from robustad.detectors import AnomalyDINO

    detector = AnomalyDINO("filters", image_size=64, whiten=False)
    jackknife = JackknifePlus(detector, images[:5])
    found = jackknife.p_values(images[5:])
    held_out, without = jackknife.left_out.scores, jackknife.left_out.scores_of(images[5:])
    np.testing.assert_array_equal(found, jackknife_plus_p_values(without, held_out))
    alone = p_values(detector.fit(images[:5]).predict(images[5:], batch_size=1).score, held_out)
    assert (alone >= found).all()
    assert jackknife.bound(0.2) == 0.4
    folds = JackknifePlus(detector, images[:6], folds=3)
    assert folds.bound(0.1) == pytest.approx(0.2 + min(2 * (2 / 3) / 3, 0.5 / 4))
    assert folds.bound(0.9) == 1.0
    assert set((folds.p_values(images[6:]) * 7).round(9)) <= set(range(1, 8))


@pytest.mark.parametrize(
    ("scores", "left_out", "fold", "message"),
    [
        ([[0.1]], [], None, r"left_out: expected shape \(n,\) with n >= 1"),
        ([[0.1]], [np.nan], None, "left_out: expected finite"),
        ([[np.nan]], [0.1], None, "scores: expected finite"),
        ([0.1], [0.1], None, r"scores: expected shape \(B, K\) .* got \(1,\)"),
        ([[0.1]], [0.1, 0.2], [0], "scores: .* 2 scores and 1 folds"),
        ([[0.1]], [0.1, 0.2], None, r"fold: expected columns 0..0, got \[0, 1\]"),
        ([[0.1]], [0.1], [0.0], r"fold: expected columns 0..0, got \[0.0\]"),
        ([[0.1]], [0.1], [-1], r"fold: expected columns 0..0, got \[-1\]"),
    ],
)
def test_bad_input_is_named(scores, left_out, fold, message):
    with pytest.raises(InputError, match=f"^{message}"):
        jackknife_plus_p_values(scores, left_out, fold)
