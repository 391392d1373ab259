"""What holds for every calibrator."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.calibration import (
    FITTED,
    Band,
    Beta,
    Calibrator,
    Isotonic,
    Platt,
    ScoreCalibrator,
    Temperature,
    calibrator_from_dict,
    create,
    with_bootstrap_band,
)
from robustad.errors import InputError, NotFittedError, StateError
from robustad.probability import probability_of

pytestmark = pytest.mark.filterwarnings("ignore:(Isotonic|Platt|Temperature|Beta)")

MAKES = {
    "platt": Platt,
    "temperature": Temperature,
    "isotonic": Isotonic,
    "beta": lambda: Beta(score_range=(-8.0, 8.0)),
    "beta of logits": lambda: Beta(score_range=None),
}


@pytest.fixture(params=MAKES)
def make(request):
    return MAKES[request.param]


def sample(seed=0, size=120):
    rng = np.random.default_rng(seed)
    labels = (rng.random(size) < 0.4).astype(int)
    labels[:2] = 0, 1
    return rng.normal(2.0 * labels - 1.0, 1.0), labels


def test_the_interface(make):
    assert isinstance(make(), Calibrator)
    assert isinstance(make(), ScoreCalibrator)
    assert set(FITTED) == {"platt", "temperature", "beta", "isotonic"}


def test_fitted_to_an_even_sample_it_is_about_right(make):
    scores, labels = sample(1, 20_000)
    found = make().fit(scores, labels)
    at = np.linspace(-2, 2, 9)
    odds = 0.4 / 0.6 * np.exp(2 * at)  # N(1, 1) over N(-1, 1)
    # temperature alone cannot know that anomalies are the rarer ones
    atol = 0.11 if found.method == "temperature" else 0.05
    np.testing.assert_allclose(found.predict_proba(at), odds / (1 + odds), rtol=0, atol=atol)
    assert (np.diff(found.predict_proba(np.linspace(-9, 9, 999))) >= 0).all()
    assert (found.n_normal, found.n_anomalous) == ((labels == 0).sum(), labels.sum())
    assert found.prevalence == labels.mean()


def test_weights_count_as_repeats(make):
    scores, labels = sample()
    counts = np.random.default_rng(3).integers(0, 4, scores.size)
    counts[:2] = 1
    weighted = make().fit(scores, labels, counts)
    repeated = make().fit(np.repeat(scores, counts), np.repeat(labels, counts))
    at = np.linspace(-7, 7, 201)
    np.testing.assert_allclose(
        weighted.predict_proba(at), repeated.predict_proba(at), rtol=0, atol=1e-9
    )
    assert weighted.prevalence == pytest.approx(repeated.prevalence)
    assert weighted.n_normal == ((labels == 0) & (counts > 0)).sum()


def test_equal_weights_change_nothing(make):
    scores, labels = sample()
    plain = make().fit(scores, labels)
    weighted = make().fit(scores, labels, np.ones(scores.size))
    at = np.linspace(-7, 7, 201)
    np.testing.assert_allclose(
        weighted.predict_proba(at), plain.predict_proba(at), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("scores", "labels", "weight", "message"),
    [
        ([0.1, 0.2, 0.3], [1, 1, 1], None, "labels: expected both .* got only 1 .anomalous., 3 t"),
        ([0.1, 0.2, 0.3], [0, 0, 0], None, "labels: expected both .* got only 0 .normal., 3 tim"),
        ([0.2, 0.2, 0.2], [0, 1, 1], None, "scores: expected different values .* got 0.2 3 times"),
        ([0.2, np.nan, 0.3], [0, 1, 1], None, "scores: .* got nan at index 1"),
        ([0.2, np.inf, 0.3], [0, 1, 1], None, "scores: .* got inf at index 1"),
        ([0.2, 0.3], [0, 1, 1], None, "scores and labels: expected equal lengths, got 2 and 3"),
        ([0.2, 0.3], [0, 0.5], None, "labels: .* got 0.5 at index 1"),
        ([0.2], [0], None, "labels: expected both"),
        ([], [], None, r"scores: expected shape \(n,\) with n >= 1, got \(0,\)"),
        ([[0.2, 0.3]], [0, 1], None, r"scores: expected shape \(n,\)"),
        (["a", "b"], [0, 1], None, "scores: expected numbers"),
        ([0.1, 0.2, 0.3], [0, 1, 1], [0, 0, 0], "a positive weight in each class, got only 0 fo"),
        ([0.1, 0.2, 0.3], [0, 1, 1], [1, 0, 0], "got only 0 for label 1 .anomalous."),
        ([0.1, 0.2, 0.3], [0, 1, 1], [1, -1, 1], "sample_weight: .* >= 0, got -1 at index 1"),
        ([0.1, 0.2, 0.3], [0, 1, 1], [1, np.nan, 1], "sample_weight: expected finite values"),
        ([0.1, 0.2, 0.3], [0, 1, 1], [1, 1], "scores and sample_weight: expected equal lengths"),
        ([0.1, 0.1, 0.3], [0, 1, 1], [1, 1, 0], "expected different values to fit to, got 0.1 2"),
    ],
)
def test_degenerate_calibration_sets_are_named(make, scores, labels, weight, message):
    calibrator = make()
    with pytest.raises(InputError, match=message):
        calibrator.fit(scores, labels, weight)
    with pytest.raises(NotFittedError):
        calibrator.predict_proba([0.1])


def test_three_images_make_a_finite_curve(make):
    found = make().fit([-1.0, 0.5, 1.0], [0, 1, 1])
    p = found.predict_proba(np.linspace(-7, 7, 101))
    assert np.isfinite(p).all()
    assert (np.diff(p) >= 0).all()


def test_a_failed_refit_keeps_the_earlier_fit(make):
    found = make().fit(*sample())
    before = found.to_dict()
    with pytest.raises(InputError):
        found.fit([0.1, 0.1], [0, 1])
    assert found.to_dict() == before


@pytest.mark.parametrize(
    "use",
    [
        lambda c: c.predict_proba([0.1]),
        lambda c: c.predict_interval([0.1]),
        lambda c: c.score_at(0.5),
        lambda c: c.with_prior(0.1),
        lambda c: c.with_measures(before={}, after={}),
        lambda c: c.with_band(None),
        lambda c: c.to_dict(),
        lambda c: (c.n_normal, c.n_anomalous, c.prevalence),
        lambda c: (c.inverted, c.before, c.after, c.band),
    ],
)
def test_everything_waits_for_the_fit(make, use):
    with pytest.raises(NotFittedError, match=r"fit\(scores, labels\) has to come first"):
        use(make())


def test_prior_shift_is_bayes_rule_and_can_be_undone(make):
    found = make().fit(*sample())
    at = np.linspace(-6, 6, 61)
    p, prevalence = found.predict_proba(at), found.prevalence
    there = found.with_prior(0.02)
    odds = p / (1 - p + (p == 1)) * (0.02 / 0.98) / (prevalence / (1 - prevalence))
    np.testing.assert_allclose(
        there.predict_proba(at), np.where(p == 1, 1.0, odds / (1 + odds)), rtol=1e-9, atol=1e-12
    )
    assert there.prevalence == 0.02
    np.testing.assert_allclose(
        there.with_prior(prevalence).predict_proba(at), p, rtol=0, atol=1e-12
    )
    direct = found.with_prior(0.3, from_prevalence=0.3)
    np.testing.assert_allclose(direct.predict_proba(at), p, rtol=0, atol=1e-12)
    assert direct.prevalence == 0.3
    for rate in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="rate: expected a number in"):
            found.with_prior(rate)
        with pytest.raises(InputError, match="from_prevalence: expected a number in"):
            found.with_prior(0.5, from_prevalence=rate)


def test_saved_and_restored(make):
    scores, labels = sample()
    found = make().fit(scores, labels)
    found = with_bootstrap_band(found, scores, labels, draws=20).with_measures(
        before={"nll": np.float32(0.7)}, after={"nll": 0.2}
    )
    state = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    again = calibrator_from_dict(state)
    assert type(again) is type(found)
    assert again.to_dict() == found.to_dict()
    at = np.linspace(-9, 9, 301)
    np.testing.assert_array_equal(again.predict_proba(at), found.predict_proba(at))
    np.testing.assert_array_equal(again.predict_interval(at), found.predict_interval(at))
    np.testing.assert_array_equal(probability_of(state, at), found.predict_proba(at))
    assert again.after == {"nll": 0.2}
    with pytest.raises(StateError, match="colour: "):
        calibrator_from_dict({**state, "colour": 1})
    with pytest.raises(StateError, match="prevalence: "):
        calibrator_from_dict({**state, "prevalence": 0.0})
    with pytest.raises(InputError, match=r"after\['nll'\]: expected finite"):
        found.with_measures(before={}, after={"nll": float("nan")})


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.001, 0.999), st.sampled_from(sorted(MAKES)))
def test_score_at_is_where_the_probability_is_reached(seed, p, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = MAKES[name]().fit(*sample(seed, 40))
    at = found.score_at(p)
    if found.inverted:
        return
    if at == np.inf:
        assert found.predict_proba([100.0])[0] < p
    elif at == -np.inf:
        assert found.predict_proba([-100.0])[0] >= p
    else:
        assert found.predict_proba([at])[0] == pytest.approx(p, abs=1e-6)


def test_score_at_wants_a_probability(make):
    found = make().fit(*sample())
    for p in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match=r"probability: expected a number in \(0, 1\)"):
            found.score_at(p)


def test_extreme_scores_give_probabilities(make):
    found = make().fit(*sample())
    p = found.predict_proba([-1e308, -1e30, 0.0, 1e30, 1e308])
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p) >= 0).all()
    assert found.predict_proba([]).shape == (0,)
    for wrong in ([np.nan], [np.inf]):
        with pytest.raises(InputError, match="scores: expected finite"):
            found.predict_proba(wrong)


def test_unfitted_gives_the_same_method_without_its_fit(make):
    found = make().fit(*sample())
    new = found.unfitted()
    assert type(new) is type(found)
    with pytest.raises(NotFittedError):
        new.to_dict()
    assert new.fit(*sample()).to_dict() == found.to_dict()


def test_intervals_without_a_band_say_how_to_get_one(make):
    with pytest.raises(NotFittedError, match=r"with_band.*with_bootstrap_band makes one"):
        make().fit(*sample()).predict_interval([0.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": [0.1]}, "expected equal lengths"),
        ({"scores": [1.0, 0.0]}, "expected rising numbers"),
        ({"high": [0.5, 1.5]}, "less than or equal to 1"),
        ({"level": 1.0}, "less than 1"),
        ({"scores": [1.0]}, "at least 2 items"),
    ],
)
def test_damaged_bands_are_named(make, change, message):
    state = make().fit(*sample()).to_dict()
    band = {"level": 0.9, "draws": 20, "scores": [0.0, 1.0], "low": [0.1, 0.2], "high": [0.5, 0.6]}
    assert calibrator_from_dict({**state, "band": band}).band == Band(**band)
    with pytest.raises(StateError, match=message):
        calibrator_from_dict({**state, "band": {**band, **change}})


def test_names_make_calibrators():
    assert {name: type(create(name)) for name in FITTED} == FITTED
    with pytest.raises(InputError, match="method: expected one of platt, temperature, beta, iso"):
        create("raw")


def test_beta_asks_the_detector_for_its_range():
    from robustad.detectors import AnomalyDINO, PatchGuard

    class Other:
        pass

    assert create("beta", detector=AnomalyDINO("filters")).score_range == (0.0, 2.0)
    assert create("beta", detector=PatchGuard.__new__(PatchGuard)).score_range is None
    with pytest.raises(InputError, match="beta needs the range of the scores, which Other does"):
        create("beta", detector=Other())
