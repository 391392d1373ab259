import numpy as np
import pytest

from robustad.errors import StateError
from robustad.probability import check_state, logit, probability_of, shifted, sigmoid

GOOD = {
    "platt": {"slope": 2.0, "intercept": -1.0},
    "temperature": {"temperature": 2.0, "shift": 0.0},
    "beta": {"a": 1.0, "b": 2.0, "c": 0.5, "low": 0.0, "high": 2.0},
    "isotonic": {"knots": [0.0, 1.0, 3.0], "values": [0.0, 0.25, 1.0], "shift": 0.0},
    "raw": {},
}


def test_closed_forms():
    s = np.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(
        probability_of({"method": "platt", **GOOD["platt"]}, s), 1 / (1 + np.exp(1 - 2 * s))
    )
    np.testing.assert_allclose(
        probability_of({"method": "temperature", **GOOD["temperature"]}, s),
        1 / (1 + np.exp(-s / 2)),
    )
    u = s[1:] / 2
    odds = u * (1 - u) ** -2 * np.exp(0.5)
    np.testing.assert_allclose(
        probability_of({"method": "beta", **GOOD["beta"]}, s[1:]), odds / (1 + odds)
    )
    isotonic = {"method": "isotonic", **GOOD["isotonic"]}
    assert probability_of(isotonic, [-1.0, 0.5, 2.0, 9.0]).tolist() == [0.0, 0.125, 0.625, 1.0]
    assert probability_of({"method": "raw"}, [-1.0, 0.5, 9.0]).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("method", GOOD)
def test_nan_stays_nan(method):
    p = probability_of({"method": method, **GOOD[method]}, [np.nan, 0.3])
    assert np.isnan(p[0])
    assert 0 <= p[1] <= 1


def test_shifts():
    p = np.array([0.0, 1e-300, 0.25, 1.0])
    np.testing.assert_allclose(shifted(p, np.log(3)), [0.0, 3e-300, 0.5, 1.0])
    assert shifted(p, 0.0) is p
    assert sigmoid(np.array([logit(0.2)]))[0] == pytest.approx(0.2)


@pytest.mark.parametrize("method", GOOD)
def test_good_states_pass_and_keep_what_else_they_hold(method):
    state = {"method": method, **GOOD[method], "n_normal": 3}
    checked = check_state(state)
    assert checked == state
    assert checked is not state


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("platt", {"method": "plate"}, "calibration: expected a method of beta, .* got 'plate'"),
        ("platt", {"method": 3}, "got 3"),
        ("platt", {"slope": float("nan")}, r"calibration \(platt\): slope: expected a finite numb"),
        ("platt", {"slope": [1.0]}, r"slope: expected a finite number, got \[1\.0\]"),
        ("platt", {"slope": "steep"}, "slope: expected numbers"),
        ("temperature", {"temperature": 0.0}, r"temperature: expected a number > 0, got 0\.0"),
        ("beta", {"low": None}, "low and high: expected both or neither, got None and 2.0"),
        ("beta", {"low": 3.0}, "low: expected less than high"),
        ("beta", {"b": -1.0}, "a and b: expected numbers >= 0"),
        ("isotonic", {"knots": [0.0, 0.0, 1.0]}, "knots: expected at least two that rise"),
        ("isotonic", {"knots": [0.0, 1.0]}, "as many as values, got 2 and 3 values"),
        ("isotonic", {"values": [0.5, 0.4, 1.0]}, "values: expected probabilities that do not f"),
        ("isotonic", {"values": [0.5, 0.6, 1.1]}, "values: expected probabilities that do not f"),
        ("isotonic", {"knots": [0.0, np.inf, 1.0]}, "knots: expected finite numbers"),
    ],
)
def test_bad_states_are_named(method, change, message):
    with pytest.raises(StateError, match=message):
        check_state({"method": method, **GOOD[method], **change})


def test_what_is_missing_is_named():
    with pytest.raises(StateError, match=r"calibration \(platt\): intercept is missing"):
        check_state({"method": "platt", "slope": 1.0})
    with pytest.raises(StateError, match=r"pixels: expected a method of .* got None"):
        check_state([1, 2], "pixels")
