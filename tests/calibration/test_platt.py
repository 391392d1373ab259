import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from robustad.calibration import Calibrator, Platt, RawScore, calibrator_from_dict
from robustad.calibration import _logistic as logistic
from robustad.errors import InputError, NotFittedError, StateError
from robustad.metrics import nll


def sample(seed, size=200, gap=1.5, prevalence=0.4):
    rng = np.random.default_rng(seed)
    labels = (rng.random(size) < prevalence).astype(int)
    labels[:2] = 0, 1
    return rng.normal(gap * labels, 1.0), labels


def smoothed(labels):
    positive, negative = labels.sum(), (1 - labels).sum()
    return np.where(labels == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))


def scikit_learn(scores, labels):
    """Unpenalised logistic regression on each score twice, weighted by its soft target."""
    target = smoothed(labels)
    model = LogisticRegression(C=np.inf, tol=1e-13, max_iter=10_000, solver="newton-cholesky")
    model.fit(
        np.tile(scores, 2)[:, None],
        np.repeat([1, 0], scores.size),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return model.coef_[0, 0], model.intercept_[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("gap", "prevalence", "size"),
    [(1.5, 0.4, 200), (0.0, 0.5, 50), (1.0, 0.05, 400), (1.0, 0.95, 23), (2.0, 0.5, 4)],
)
def test_matches_scikit_learn(seed, gap, prevalence, size):
    scores, labels = sample(seed, size, gap, prevalence)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some slopes are negative by chance
        platt = Platt().fit(scores, labels)
    assert (platt.slope, platt.intercept) == pytest.approx(scikit_learn(scores, labels), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gap", [8.0, 40.0])
def test_separable_scores_match_scikit_learn(seed, gap):
    scores, labels = sample(seed, 60, gap)
    assert scores[labels == 1].min() > scores[labels == 0].max()
    platt = Platt().fit(scores, labels)
    assert (platt.slope, platt.intercept) == pytest.approx(scikit_learn(scores, labels), rel=1e-5)


def test_matches_the_private_fit_of_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration")
    model = getattr(calibration, "_SigmoidCalibration", None)
    if model is None:
        pytest.skip("this scikit-learn has no _SigmoidCalibration")
    scores, labels = sample(0)
    expected = model().fit(scores, labels).predict(scores)
    # Its L-BFGS stops at a gradient of 1e-6.
    assert Platt().fit(scores, labels).predict_proba(scores) == pytest.approx(expected, abs=1e-4)


def test_no_other_curve_is_more_likely():
    scores, labels = sample(3, 40)
    platt, target = Platt().fit(scores, labels), smoothed(labels)

    def loss(params):
        logit = params[0] * scores + params[1]
        return (np.logaddexp(0, logit) - target * logit).sum()

    best = minimize(loss, [0.5, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    assert loss([platt.slope, platt.intercept]) <= best.fun + 1e-10


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31),
    st.sampled_from([2, 3, 10, 100]),
    st.floats(-100, 100),
    st.sampled_from([1e-150, 1e-30, 1e-6, 1.0, 1e6, 1e30, 1e150]),
)
def test_the_scale_of_the_scores_does_not_matter(seed, size, shift, scale):
    scores, labels = sample(seed, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = Platt().fit(scores, labels)
        moved = Platt().fit((scores + shift) * scale, labels)
    assert moved.predict_proba((scores + shift) * scale) == pytest.approx(
        plain.predict_proba(scores), abs=1e-9
    )
    assert moved.slope * scale == pytest.approx(plain.slope, rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(-1e200, 1e200), st.integers(0, 1)), min_size=2, max_size=30))
def test_the_gradient_vanishes_on_any_scores(pairs):
    scores, labels = map(np.array, zip(*pairs, strict=True))
    labels[:2] = 0, 1
    if np.ptp(scores) < 1e-200:
        scores[0] = 1.0 if abs(scores[0]) < 0.5 else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        platt = Platt().fit(scores, labels)
    residual = platt.predict_proba(scores) - smoothed(labels)
    # slope * score + intercept cancels where the scores lie far from 0 and close together.
    rounding = 1e-9 + 1e-15 * np.abs(platt.slope * scores).max()
    assert abs(residual.mean()) < rounding
    assert abs((residual * (scores / np.abs(scores).max())).mean()) < rounding


def test_two_scores_have_a_closed_form():
    # Both smoothed targets can be met: 2/3 at 4 and 1/3 at 2.
    platt = Platt().fit([2.0, 4.0], [0, 1])
    assert platt.predict_proba([2.0, 3.0, 4.0]) == pytest.approx([1 / 3, 1 / 2, 2 / 3])
    assert platt.slope == pytest.approx(np.log(2))
    assert (platt.n_normal, platt.n_anomalous, platt.prevalence) == (1, 1, 0.5)


def test_two_levels_have_a_closed_form():
    # Scores of two values only: at each, p is the mean of its smoothed targets.
    scores = np.repeat([0.1, 0.2], [10, 20])
    labels = np.r_[np.repeat([0, 1], [9, 1]), np.repeat([0, 1], [5, 15])]
    target = smoothed(labels)
    p = Platt().fit(scores, labels).predict_proba([0.1, 0.2])
    assert p == pytest.approx([target[:10].mean(), target[10:].mean()])


def test_distances_are_not_underfitted():
    # Raw distances of 0.1 to 0.5, where a penalised fit stays at the base rate.
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 60])
    scores = rng.normal(0.2 + 0.1 * labels, 0.03)
    platt = Platt().fit(scores, labels)
    penalised = LogisticRegression().fit(scores[:, None], labels)
    assert platt.slope > 10 * penalised.coef_[0, 0]
    ours = nll(platt.predict_proba(scores), labels)
    assert ours < 0.5 * nll(penalised.predict_proba(scores[:, None])[:, 1], labels)


def test_an_offset_larger_than_the_spread():
    scores, labels = sample(0)
    plain = Platt().fit(scores, labels).predict_proba(scores)
    far = 1e6 + 1e-2 * scores
    assert Platt().fit(far, labels).predict_proba(far) == pytest.approx(plain, abs=1e-5)


def test_probabilities_rise_with_the_score_and_stay_in_range():
    platt = Platt().fit(*sample(0))
    p = platt.predict_proba(np.r_[-1e308, np.linspace(-50, 50, 1001), 1e308])
    assert p[0] == 0.0
    assert p[-1] == 1.0
    assert (np.diff(p) >= 0).all()
    assert p.dtype == np.float64
    assert 0 < platt.predict_proba([-100.0])[0] < 1e-50  # small, not rounded to 0
    assert platt.predict_proba([]).shape == (0,)


@settings(deadline=None)
@given(st.floats(1e-9, 1 - 1e-9))
def test_score_at_inverts(p):
    platt = Platt().fit([0.1, 0.3, 0.2, 0.4], [0, 0, 1, 1])
    assert platt.predict_proba([platt.score_at(p)])[0] == pytest.approx(p, rel=1e-9)


def test_prior_shift_is_bayes_rule():
    # With the true densities the posterior at another rate is known.
    scores, labels = sample(1, 100_000, gap=2.0, prevalence=0.7)
    platt = Platt().fit(scores, labels).with_prior(0.01)
    s = np.linspace(-2, 4, 9)
    ratio = np.exp(2.0 * s - 2.0)  # N(2, 1) over N(0, 1)
    assert platt.predict_proba(s) == pytest.approx(0.01 * ratio / (0.01 * ratio + 0.99), abs=0.02)
    assert platt.prevalence == 0.01


def test_prior_shifts_chain_and_leave_the_original_alone():
    platt = Platt().fit(*sample(0)).with_measures(before={"nll": 1.0}, after={"nll": 0.5})
    intercept = platt.intercept
    there = platt.with_prior(0.01)
    assert there.before is there.after is None
    assert there.with_prior(platt.prevalence).intercept == pytest.approx(intercept, abs=1e-12)
    direct = platt.with_prior(0.01, from_prevalence=0.5)
    assert direct.intercept == pytest.approx(intercept + np.log(0.01 / 0.99))
    assert platt.intercept == intercept
    assert there.slope == platt.slope


def test_inverted_scores_warn():
    scores, labels = sample(0)
    with pytest.warns(UserWarning, match="Platt slope is negative .* check labels and detector"):
        platt = Platt().fit(-scores, labels)
    assert platt.inverted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Platt().fit(scores, labels).inverted


def test_saved_and_restored():
    platt = (
        Platt()
        .fit(*sample(0))
        .with_measures(before={"nll": np.float32(0.7)}, after={"nll": 0.2, "ece_positive": 0.05})
    )
    state = json.loads(json.dumps(platt.to_dict()))
    assert set(state) == {
        "method", "slope", "intercept", "n_normal", "n_anomalous", "prevalence", "before", "after",
        "band",
    }  # fmt: skip
    restored = calibrator_from_dict(state)
    assert isinstance(restored, Platt)
    assert restored.to_dict() == platt.to_dict()
    assert restored.after == {"nll": 0.2, "ece_positive": 0.05}
    scores = np.linspace(-3, 3, 50)
    np.testing.assert_array_equal(restored.predict_proba(scores), platt.predict_proba(scores))


GOOD = {"method": "platt", "slope": 2.0, "intercept": -1.0, "n_normal": 3, "n_anomalous": 4,
        "prevalence": 0.5, "before": None, "after": None, "band": None}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": "2"}, r"calibration \(platt\): slope: .* got '2'"),
        ({"slope": float("nan")}, "slope: .* finite"),
        ({"n_normal": 0}, "n_normal: .* greater than or equal to 1, got 0"),
        ({"prevalence": 1.0}, "prevalence: .* less than 1, got 1.0"),
        ({"colour": 1}, "colour: .* got 1"),
        ({"before": {"nll": None}}, "before.nll: "),
        (
            {"method": "plate"},
            "expected a method of .*, platt, .*, got 'plate'",
        ),
        (
            {"method": None},
            "expected a method of .*, platt, .*, got None",
        ),
    ],
)
def test_damaged_states_are_named(change, message):
    assert calibrator_from_dict(GOOD).to_dict() == GOOD
    with pytest.raises(StateError, match=message):
        calibrator_from_dict({**GOOD, **change})


def test_incomplete_states_are_named():
    with pytest.raises(StateError, match="intercept: Field required"):
        Platt.from_dict({k: v for k, v in GOOD.items() if k != "intercept"})
    with pytest.raises(StateError, match=r"a method of .*, platt, .*, got None"):
        calibrator_from_dict([1, 2])


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2, 0.3], [1, 1, 1], "labels: expected both .* got only 1 .anomalous., 3 times"),
        ([0.2, 0.2, 0.2], [0, 1, 1], "scores: expected different values .* got 0.2 3 times"),
        ([0.2, np.nan, 0.3], [0, 1, 1], "scores: .* got nan at index 1"),
        ([0.2, 0.3], [0, 1, 1], "scores and labels: expected equal lengths, got 2 and 3"),
        ([0.2, 0.3], [0, 0.5], "labels: .* got 0.5 at index 1"),
        ([0.0, 5e-324], [0, 1], "expected a spread that a float64 can hold the slope for"),
        ([0.0] * 99 + [4.5e-308] * 99, [0] * 99 + [1] * 99, "a spread .* got 0..4.5e-308"),
    ],
)
def test_degenerate_calibration_sets_are_named(scores, labels, message):
    platt = Platt()
    with pytest.raises(InputError, match=message):
        platt.fit(scores, labels)
    with pytest.raises(NotFittedError):
        platt.predict_proba([0.1])


def test_a_failed_refit_keeps_the_earlier_fit():
    platt = Platt().fit(*sample(0))
    slope = platt.slope
    with pytest.raises(InputError):
        platt.fit([0.1, 0.1], [0, 1])
    assert platt.slope == slope


def test_a_fit_that_does_not_converge_says_so(monkeypatch):
    monkeypatch.setattr(logistic, "MAX_STEPS", 1)
    with pytest.raises(InputError, match="did not converge in 1 steps on 200 values"):
        Platt().fit(*sample(0))


@pytest.mark.parametrize(
    "use",
    [
        lambda p: p.predict_proba([0.1]),
        lambda p: p.score_at(0.5),
        lambda p: p.with_prior(0.1),
        lambda p: p.with_measures(before={}, after={}),
        lambda p: p.to_dict(),
        lambda p: (p.slope, p.intercept),
        lambda p: p.inverted,
    ],
)
def test_unfitted_is_named(use):
    with pytest.raises(NotFittedError, match=r"Platt: fit\(scores, labels\) has to come first"):
        use(Platt())


def test_bad_arguments_are_named():
    platt = Platt().fit(*sample(0))
    with pytest.raises(InputError, match=r"scores: .* got inf at index 1"):
        platt.predict_proba([0.1, np.inf])
    with pytest.raises(InputError, match=r"scores: expected shape \(n,\) .* got \(1, 1\)"):
        platt.predict_proba([[0.1]])
    with pytest.raises(InputError, match=r"probability: expected a number in \(0, 1\), got 1"):
        platt.score_at(1)
    with pytest.raises(InputError, match=r"rate: expected a number in \(0, 1\), got 0"):
        platt.with_prior(0)
    with pytest.raises(InputError, match=r"from_prevalence: expected a number .* got nan"):
        platt.with_prior(0.1, from_prevalence=np.nan)
    with pytest.raises(InputError, match=r"after\['nll'\]: expected finite values, got nan"):
        platt.with_measures(before={"nll": 1.0}, after={"nll": np.nan})
    flat = Platt.from_dict({**GOOD, "slope": 0.0, "intercept": 0.0})
    with pytest.raises(InputError, match=r"a slope other than 0, every score has .* 0.5"):
        flat.score_at(0.5)


def test_both_calibrators_keep_the_protocol():
    assert isinstance(Platt(), Calibrator)
    assert isinstance(RawScore(), Calibrator)
    assert repr(Platt()) == "Platt()"
    assert repr(Platt.from_dict(GOOD)) == "Platt(slope=2, intercept=-1)"
