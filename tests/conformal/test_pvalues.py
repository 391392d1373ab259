import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.conformal import p_values, threshold_for_fpr, weighted_p_values
from robustad.errors import InputError

few = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@settings(deadline=None)
@given(few, few)
def test_by_counting(scores, calibration):
    expected = [(1 + sum(c >= s for c in calibration)) / (1 + len(calibration)) for s in scores]
    assert p_values(scores, calibration).tolist() == expected


@settings(deadline=None)
@given(few, few, st.integers(0, 9))
def test_smoothed_by_counting(scores, calibration, seed):
    draws = np.random.default_rng(seed).random(len(scores))
    expected = [
        (sum(c > s for c in calibration) + u * (1 + sum(c == s for c in calibration)))
        / (1 + len(calibration))
        for s, u in zip(scores, draws, strict=True)
    ]
    found = p_values(scores, calibration, smoothed=True, seed=seed)
    assert found.tolist() == pytest.approx(expected)
    assert (found <= p_values(scores, calibration)).all()


@settings(deadline=None)
@given(few, few, st.integers(0, 99))
def test_weighted_by_summing(scores, calibration, seed):
    rng = np.random.default_rng(seed)
    weights, own = rng.random(len(calibration)), 0.1 + rng.random(len(scores))
    expected = [
        (sum(w for c, w in zip(calibration, weights, strict=True) if c >= s) + o)
        / (sum(weights) + o)
        for s, o in zip(scores, own, strict=True)
    ]
    found = weighted_p_values(scores, calibration, weights=weights, score_weights=own)
    assert found.tolist() == pytest.approx(expected)
    equal = weighted_p_values(
        scores, calibration, weights=np.ones(len(calibration)), score_weights=np.ones(len(scores))
    )
    assert equal.tolist() == pytest.approx(p_values(scores, calibration).tolist())


def test_they_are_nonconforms():
    scoring = pytest.importorskip("nonconform.scoring", reason="nonconform needs Python 3.12")
    rng = np.random.default_rng(0)
    for decimals in (1, 12):  # with and without ties
        calibration, scores = (
            rng.normal(size=80).round(decimals),
            rng.normal(size=60).round(decimals),
        )
        ours = p_values(scores, calibration)
        np.testing.assert_array_equal(ours, scoring.calculate_p_val(scores, calibration))
        ours = p_values(scores, calibration, smoothed=True, seed=5)
        theirs = scoring.calculate_p_val(
            scores, calibration, tie_break="randomized", rng=np.random.default_rng(5)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
        weights, own = rng.random(80), rng.random(60)
        ours = weighted_p_values(scores, calibration, weights=weights, score_weights=own)
        theirs = scoring.calculate_weighted_p_val(scores, calibration, own, weights)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.15, 0.29, 0.3])
@pytest.mark.parametrize("n", [19, 20, 99, 100])
def test_a_p_value_of_alpha_is_a_score_above_the_threshold(alpha, n):
    rng = np.random.default_rng(n)
    calibration, scores = rng.integers(0, 60, n) / 7, rng.integers(0, 70, 500) / 7
    threshold = threshold_for_fpr(calibration, alpha).value
    np.testing.assert_array_equal(p_values(scores, calibration) <= alpha, scores >= threshold)


def test_smoothed_ones_are_uniform_also_under_ties():
    rng = np.random.default_rng(0)
    found = np.array(
        [
            p_values(row[:1], row[1:], smoothed=True, seed=i)[0]
            for i, row in enumerate(rng.integers(0, 4, (4000, 12)).astype(float))
        ]
    )
    counts = np.histogram(found, np.linspace(0, 1, 11))[0]
    assert abs(counts - 400).max() < 5 * np.sqrt(400 * 0.9)


def test_a_known_shift_is_undone_by_its_weights():
    rng = np.random.default_rng(0)
    hits = plain = 0
    for _ in range(1500):
        kind = rng.random(60) < 0.2  # a fifth of the calibration images is of the kind that rises
        calibration = rng.normal(size=60) + 2 * kind
        weights = np.where(kind, 4.0, 0.25)  # now four fifths are
        new = rng.random() < 0.8
        score = [rng.normal() + 2 * new]
        own = [4.0 if new else 0.25]
        found = weighted_p_values(score, calibration, weights=weights, score_weights=own)
        hits += found[0] <= 0.1
        plain += p_values(score, calibration)[0] <= 0.1
    assert hits / 1500 < 0.1 + 4 * np.sqrt(0.09 / 1500)
    assert plain / 1500 > 0.2


def test_no_image_no_p_value():
    assert p_values([], [1.0]).shape == (0,)
    assert p_values([], [1.0], smoothed=True, seed=1).shape == (0,)


@pytest.mark.parametrize(
    ("scores", "calibration", "options", "message"),
    [
        ([1.0], [], {}, r"calibration: expected shape \(n,\) with n >= 1"),
        ([1.0], [np.nan], {}, "calibration: expected finite values, got nan"),
        ([np.nan], [1.0], {}, "scores: expected finite values, got nan"),
        ([np.inf], [1.0], {}, "scores: expected finite values, got inf"),
        ([[1.0]], [1.0], {}, r"scores: expected shape \(n,\)"),
        (["a"], [1.0], {}, "scores: expected numbers"),
        ([1.0], [1.0], {"seed": 3}, "seed: expected None without smoothed=True, got 3"),
    ],
)
def test_bad_input_is_named(scores, calibration, options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        p_values(scores, calibration, **options)


@pytest.mark.parametrize(
    ("weights", "own", "message"),
    [
        ([1.0], [1.0], "weights: expected one a score, 2, got 1"),
        ([1.0, -1.0], [1.0], "weights: expected weights >= 0, got -1"),
        ([1.0, np.nan], [1.0], "weights: expected finite values"),
        ([1.0, 1.0], [], "score_weights: expected one a score, 1, got 0"),
        ([0.0, 0.0], [0.0], "weights: expected one above 0, got only 0"),
    ],
)
def test_bad_weights_are_named(weights, own, message):
    with pytest.raises(InputError, match=f"^{message}"):
        weighted_p_values([0.5], [0.1, 0.9], weights=weights, score_weights=own)
