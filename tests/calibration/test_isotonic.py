import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from robustad.calibration import Isotonic

pytestmark = pytest.mark.filterwarnings("ignore:Isotonic")


def sample(seed, size=500, gap=1.5, decimals=None):
    rng = np.random.default_rng(seed)
    labels = (rng.random(size) < 0.4).astype(int)
    labels[:2] = 0, 1
    scores = rng.normal(gap * labels, 1.0)
    return scores if decimals is None else scores.round(decimals), labels


def scikit_learn(scores, labels, at, weight=None):
    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    return model.fit(scores, labels, sample_weight=weight).predict(at)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("size", "gap", "decimals"),
    [
        (500, 1.5, None),
        (30, 1.0, None),
        (500, 1.5, 1),
        (400, 0.0, 0),
        (60, 30.0, None),
        (4, 1, None),
    ],
)
def test_matches_scikit_learn(seed, size, gap, decimals):
    scores, labels = sample(seed, size, gap, decimals)
    at = np.concatenate([scores, np.linspace(-5, gap + 5, 301)])
    found = Isotonic().fit(scores, labels).predict_proba(at)
    np.testing.assert_allclose(found, scikit_learn(scores, labels, at), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(-6, 6), st.integers(0, 1), st.integers(0, 3)),
        min_size=2,
        max_size=25,
    )
)
def test_matches_scikit_learn_on_ties_and_weights(rows):
    scores, labels, weight = map(np.array, zip(*rows, strict=True))
    scores = scores / 3.0
    scores[:2], labels[:2], weight[:2] = (-1.0, 2.0), (0, 1), 1
    at = np.linspace(-3, 3, 61)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Isotonic().fit(scores, labels, weight).predict_proba(at)
    kept = weight > 0
    expected = scikit_learn(scores[kept], labels[kept], at, weight[kept].astype(float))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_tiny_scores_are_told_apart():
    # scikit-learn takes scores nearer than 1e-15 for equal.
    scores, labels = sample(0)
    plain = Isotonic().fit(scores, labels)
    tiny = Isotonic().fit(1e-20 * scores, labels)
    np.testing.assert_array_equal(tiny.values, plain.values)


def test_knots_are_where_it_bends_and_no_more():
    scores, labels = sample(1, 2000)
    curve = Isotonic().fit(scores, labels)
    assert 2 <= curve.knots.size < 200
    assert (np.diff(curve.knots) > 0).all()
    assert (np.diff(curve.values) >= 0).all()
    level = np.diff(curve.values) == 0
    assert not (level[1:] & level[:-1]).any()
    assert curve.knots[0] == scores.min()
    assert curve.knots[-1] == scores.max()


def test_it_beats_no_other_rising_curve():
    # Least squares among rising curves: any small rising change is worse.
    scores, labels = sample(2, 50)
    order = np.argsort(scores)
    scores, labels = scores[order], labels[order]
    p = Isotonic().fit(scores, labels).predict_proba(scores)
    best = np.square(p - labels).sum()
    rng = np.random.default_rng(0)
    for _ in range(200):
        other = np.sort(p + 0.02 * rng.standard_normal(p.size)).clip(0, 1)
        assert np.square(other - labels).sum() >= best - 1e-12


def test_score_at_is_the_smallest_score_that_is_enough():
    curve = Isotonic().fit([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, 0, 1, 0, 1, 1])
    assert curve.score_at(0.25) == 2.5
    assert curve.score_at(0.5) == 3.0
    assert curve.score_at(0.75) == 4.5
    for p in (0.01, 0.3, 0.5, 0.99):
        assert curve.predict_proba([curve.score_at(p)])[0] >= p - 1e-12
        assert curve.predict_proba([curve.score_at(p) - 1e-6])[0] < p
    half = Isotonic().fit([1.0, 2.0, 3.0, 4.0], [0, 1, 1, 0])
    assert half.values[-1] == pytest.approx(2 / 3)
    assert half.score_at(0.7) == np.inf
    lifted = Isotonic().fit([1.0, 1.0, 2.0], [0, 1, 1])
    assert lifted.score_at(0.5) == -np.inf


def test_certainty_survives_a_shift():
    curve = Isotonic().fit([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1]).with_prior(1e-6)
    assert curve.predict_proba([0.0, 9.0]).tolist() == [0.0, 1.0]
    assert curve.predict_proba([2.5])[0] == pytest.approx(1e-6, rel=1e-5)


def test_few_images_and_level_curves_are_warned_of():
    scores, labels = sample(0, 999)
    with pytest.warns(UserWarning, match="Isotonic: 999 images are few, below about 1000"):
        Isotonic().fit(scores, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Isotonic().fit(*sample(0, 1000))
    with pytest.warns(
        UserWarning, match=r"Isotonic: every score has the probability 0\.5: .*check"
    ):
        flat = Isotonic().fit([1.0, 2.0, 3.0, 4.0], [1, 1, 0, 0])
    assert flat.predict_proba([0.0, 9.0]).tolist() == [0.5, 0.5]
    assert not flat.inverted


def test_says_what_it_is():
    assert repr(Isotonic()) == "Isotonic()"
    assert repr(Isotonic().fit([1.0, 2.0], [0, 1])) == "Isotonic(2 knots, shift=0)"
