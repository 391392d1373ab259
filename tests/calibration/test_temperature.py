import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression

from robustad.calibration import Platt, Temperature
from robustad.errors import InputError


def logits(seed=0, size=300, temperature=2.5):
    """Logits that are `temperature` times too certain."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0.0, 2.0, size)
    labels = (rng.random(size) < 1 / (1 + np.exp(-z))).astype(int)
    labels[:2] = 0, 1
    return temperature * z, labels


def smoothed(labels):
    positive, negative = labels.sum(), (1 - labels).sum()
    return np.where(labels == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))


@pytest.mark.parametrize("seed", range(5))
def test_matches_scikit_learn_without_an_intercept(seed):
    z, labels = logits(seed)
    target = smoothed(labels)
    model = LogisticRegression(
        C=np.inf, fit_intercept=False, tol=1e-13, max_iter=10_000, solver="newton-cholesky"
    )
    model.fit(
        np.tile(z, 2)[:, None],
        np.repeat([1, 0], z.size),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    expected = 1.0 / model.coef_[0, 0]
    assert Temperature().fit(z, labels).temperature == pytest.approx(expected, rel=1e-6)


def test_no_other_temperature_is_more_likely():
    z, labels = logits(1, 60)
    target = smoothed(labels)

    def loss(log_temperature):
        logit = z / np.exp(log_temperature)
        return (np.logaddexp(0, logit) - target * logit).sum()

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10})
    found = Temperature().fit(z, labels).temperature
    assert np.log(found) == pytest.approx(best.x, abs=1e-5)


def test_finds_the_temperature_that_made_the_logits_too_certain():
    z, labels = logits(0, 200_000, 2.5)
    assert Temperature().fit(z, labels).temperature == pytest.approx(2.5, rel=0.02)


def test_zero_stays_a_coin_toss_and_the_prior_moves_it():
    scaling = Temperature().fit(*logits())
    assert scaling.predict_proba([0.0]).tolist() == [0.5]
    assert scaling.score_at(0.5) == 0.0
    there = scaling.with_prior(0.01, from_prevalence=0.5)
    assert there.predict_proba([0.0])[0] == pytest.approx(0.01)
    assert there.temperature == scaling.temperature
    assert there.predict_proba([there.score_at(0.7)])[0] == pytest.approx(0.7)


@pytest.mark.parametrize("scale", [1e-300, 1e-6, 1.0, 1e6, 1e300])
def test_the_scale_of_the_logits_does_not_matter(scale):
    z, labels = logits(2, 50)
    plain = Temperature().fit(z, labels)
    scaled = Temperature().fit(z * scale, labels)
    assert scaled.temperature / scale == pytest.approx(plain.temperature, rel=1e-9)
    assert scaled.predict_proba(z * scale) == pytest.approx(plain.predict_proba(z), abs=1e-12)


def test_a_set_without_errors_keeps_a_finite_temperature():
    scaling = Temperature().fit([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], [0, 0, 0, 1, 1, 1])
    assert 0.1 < scaling.temperature < 10


def test_distances_are_refused_or_warned_of():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 60])
    distances = rng.normal(0.2 + 0.1 * labels, 0.03)
    with pytest.warns(UserWarning, match=r"one side of 0 \(0\.1.* to 0\.3.*\).*need platt"):
        poor = Temperature().fit(distances, labels)
    assert poor.predict_proba(distances).min() > 0.5  # every normal image called anomalous
    assert Platt().fit(distances, labels).predict_proba(distances).min() < 0.1
    few = np.repeat([0, 1], [90, 10])
    with pytest.raises(InputError, match=r"no finite temperature fits.*distances have no such"):
        Temperature().fit(rng.normal(0.2 + 0.1 * few, 0.03), few)
    z, labels = logits()
    with pytest.raises(InputError, match="no finite temperature fits: expected logits, above 0"):
        Temperature().fit(-z, labels)


def test_temperatures_that_are_no_float_are_refused():
    z = 1.7e308 * np.array([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    with pytest.raises(InputError, match="a spread that a float64 can hold"):
        Temperature().fit(z, [0, 1, 0, 1, 1, 0])


def test_says_what_it_is():
    assert repr(Temperature()) == "Temperature()"
    assert repr(Temperature().fit(*logits())).startswith("Temperature(temperature=")
