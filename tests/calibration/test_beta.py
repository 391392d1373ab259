import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from robustad.calibration import Beta
from robustad.calibration.score_calibrator import ScoreCalibrator
from robustad.errors import InputError, StateError


def sample(seed=0, size=400):
    """Scores whose classes follow beta distributions, so that the true curve is of this form."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(size) < 0.5).astype(int)
    labels[:2] = 0, 1
    return np.where(labels, rng.beta(5, 2, size), rng.beta(2, 4, size)), labels


def smoothed(labels):
    positive, negative = labels.sum(), (1 - labels).sum()
    return np.where(labels == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))


def scikit_learn(scores, labels):
    target = smoothed(labels)
    features = np.stack([np.log(scores), -np.log1p(-scores)], axis=1)
    model = LogisticRegression(C=np.inf, tol=1e-13, max_iter=10_000, solver="newton-cholesky")
    model.fit(
        np.tile(features, (2, 1)),
        np.repeat([1, 0], scores.size),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return *model.coef_[0], model.intercept_[0]


@pytest.mark.parametrize("seed", range(5))
def test_matches_scikit_learn_where_the_bounds_do_not_bind(seed):
    scores, labels = sample(seed)
    expected = scikit_learn(scores, labels)
    assert min(expected[:2]) > 0
    found = Beta().fit(scores, labels)
    assert (found.a, found.b, found.c) == pytest.approx(expected, abs=1e-6)


def test_finds_the_curve_that_beta_distributions_make():
    found = Beta().fit(*sample(0, 300_000))
    # ln of Beta(5, 2) over Beta(2, 4): 3 ln s - (-2) ln(1 - s) + ln(B(2, 4) / B(5, 2))
    assert (found.a, found.b) == pytest.approx((3.0, 2.0), rel=0.02)
    assert found.c == pytest.approx(np.log((1 / 20) / (1 / 30)), abs=0.05)


@pytest.mark.parametrize("case", range(6))
def test_the_bounded_fit_equals_a_bounded_search(case):
    rng = np.random.default_rng(case)
    # Shapes whose free fit has a negative weight: of the first, of the second, of both.
    shapes = [((2, 2), (2, 5)), ((5, 2), (2, 2)), ((6, 6), (2, 2)), ((2, 2), (6, 6))]
    (a1, b1), (a0, b0) = shapes[case % 4]
    labels = np.arange(200) % 2
    scores = np.where(labels, rng.beta(a1, b1, 200), rng.beta(a0, b0, 200))
    target = smoothed(labels)
    features = np.stack([np.log(scores), -np.log1p(-scores), np.ones(200)])

    def loss(params):
        logit = params @ features
        return (np.logaddexp(0, logit) - target * logit).sum()

    best = minimize(
        loss, [1.0, 1.0, 0.0], method="L-BFGS-B", bounds=[(0, None), (0, None), (None, None)],
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000},
    )  # fmt: skip
    found = Beta().fit(scores, labels)
    assert min(found.a, found.b) >= 0
    assert loss(np.array([found.a, found.b, found.c])) <= best.fun + 1e-7
    assert (np.diff(found.predict_proba(np.linspace(0, 1, 101))) >= 0).all()


def test_scores_the_wrong_way_round_give_a_level_curve():
    scores, labels = sample()
    with pytest.warns(UserWarning, match=r"Beta: a and b are 0.*check labels and detector"):
        flat = Beta().fit(1 - scores, labels)
    assert flat.a == flat.b == 0
    assert np.ptp(flat.predict_proba(scores)) == 0
    assert flat.predict_proba([0.3])[0] == pytest.approx(smoothed(labels).mean())
    assert flat.score_at(0.999) == np.inf
    assert flat.score_at(0.001) == -np.inf


def test_a_range_is_only_a_change_of_scale():
    scores, labels = sample()
    plain = Beta().fit(scores, labels)
    wide = Beta(score_range=(-1.0, 3.0)).fit(4.0 * scores - 1.0, labels)
    assert (wide.a, wide.b, wide.c) == pytest.approx((plain.a, plain.b, plain.c), abs=1e-8)
    assert wide.predict_proba(4.0 * scores - 1.0) == pytest.approx(plain.predict_proba(scores))


def test_logits_are_taken_through_the_sigmoid():
    scores, labels = sample()
    logits = np.log(scores / (1 - scores))
    plain = Beta().fit(scores, labels)
    found = Beta(score_range=None).fit(logits, labels)
    assert (found.a, found.b, found.c) == pytest.approx((plain.a, plain.b, plain.c), abs=1e-8)
    p = found.predict_proba([-1e308, -800.0, 0.0, 800.0, 1e308])
    assert p[0] == 0.0
    assert p[-1] == 1.0
    assert np.isfinite(p).all()


def test_the_ends_of_the_range_and_beyond():
    found = Beta().fit(*sample())
    p = found.predict_proba([-5.0, 0.0, 1e-7, 1.0 - 1e-7, 1.0, 7.0])
    assert p[0] == p[1] == p[2]
    assert p[3] == p[4] == p[5]
    assert 0 < p[0] < 1e-3 < 0.999 < p[-1] < 1


@pytest.mark.parametrize("score_range", [(0.0, 1.0), (0.0, 2.0), None])
@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.99])
def test_score_at_inverts(score_range, p):
    scores, labels = sample()
    if score_range is None:
        scores = np.log(scores / (1 - scores))
    found = Beta(score_range=score_range).fit(scores, labels)
    at = found.score_at(p)
    assert found.predict_proba([at])[0] == pytest.approx(p, rel=1e-9)
    assert found.predict_proba([at - 1e-6])[0] < p


def test_scores_outside_the_range_are_refused():
    with pytest.raises(InputError, match=r"numbers in \[0, 1\], got 1\.5 \(1 of 3 are outside\); "):
        Beta().fit([0.1, 1.5, 0.3], [0, 1, 1])
    for wrong in ((1.0, 0.0), (0.0, 0.0), (0.0, np.inf), (np.nan, 1.0)):
        with pytest.raises(InputError, match="score_range: expected two finite numbers"):
            Beta(score_range=wrong)


@pytest.mark.parametrize("score_range", [(0.0, 2.0), None])
def test_the_range_is_saved(score_range):
    found = Beta(score_range=score_range).fit(*sample())
    again = Beta.from_dict(found.to_dict())
    assert again.score_range == score_range
    assert again.unfitted().score_range == score_range
    assert found.with_prior(0.1).score_range == score_range


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": -1.0}, "a: Input should be greater than or equal to 0, got -1.0"),
        ({"low": None}, "low and high: expected both or neither"),
        ({"low": 3.0}, "low: expected less than high"),
    ],
)
def test_damaged_states_are_named(change, message):
    state = Beta().fit(*sample()).to_dict()
    with pytest.raises(StateError, match=message):
        Beta.from_dict({**state, **change})


def test_two_scores_are_enough_to_be_finite():
    found = Beta().fit([0.2, 0.7], [0, 1])
    assert found.predict_proba([0.2, 0.7]) == pytest.approx([1 / 3, 2 / 3], abs=1e-6)


def test_scores_that_are_all_at_the_ends():
    found = Beta().fit([0.0, 0.0, 1.0, 1.0], [0, 1, 1, 1])
    p = found.predict_proba([0.0, 1.0])
    target = smoothed(np.array([0, 1, 1, 1]))
    assert p == pytest.approx([target[:2].mean(), target[2:].mean()], abs=1e-9)


def test_scores_too_near_an_end_to_be_told_apart():
    with pytest.warns(UserWarning, match="Beta: a and b are 0"):
        Beta().fit([1e-9, 2e-9, 3e-9], [0, 1, 1])


def test_says_what_it_is():
    assert repr(Beta()) == "Beta(score_range=(0.0, 1.0))"
    assert repr(Beta().fit(*sample())).startswith("Beta(a=")
    assert issubclass(Beta, ScoreCalibrator)
