"""Calibration, held-out scores and policy in place of the file's own."""

import numpy as np
import pytest

from robustad import runtime
from robustad.calibration import Platt, with_bootstrap_band
from robustad.conformal import ConformalScores
from robustad.errors import InputError, StateError
from robustad.probability import probability_of
from robustad.verdict import Evidence, Policy, Verdict, binary_entropy


def test_calibration_and_policy_can_be_replaced(exported, model, mixed):
    policy = Policy(threshold=0.99)
    other = runtime.load(exported.path, threads=1, calibration=(8.0, -2.0), policy=policy)
    found = other.predict(mixed)
    expected = 1 / (1 + np.exp(2.0 - 8.0 * found.score.astype(np.float64)))
    np.testing.assert_allclose(found.probability, expected, atol=1e-6)
    assert found.verdict == policy.decide(found.probability)
    assert other.conformal == exported.detector.conformal
    other.calibration = None
    np.testing.assert_array_equal(
        other.predict(mixed).probability, model.predict(mixed).probability
    )
    for wrong in ((1.0, np.nan), (1.0,), (np.inf, 0.0)):
        with pytest.raises(InputError, match="calibration: expected two finite numbers"):
            other.calibration = wrong


def test_held_out_scores_can_be_replaced(exported, model, mixed):
    held_out = ConformalScores(np.linspace(0.0, 1.0, 40))
    policy = held_out.policy(fpr=0.05)
    other = runtime.load(exported.path, threads=1, conformal=held_out, policy=policy)
    found = other.predict(mixed)
    np.testing.assert_array_equal(found.p_value, held_out.p_values(found.score))
    known = Evidence(probability=found.probability, p_value=found.p_value)
    assert found.verdict == policy.decide(known)
    x = np.zeros((1, 3, 48, 48), np.float32)
    out = other.run(x)
    np.testing.assert_allclose(out["p_value"], held_out.p_values(out["score"]), rtol=1e-6)
    other.conformal = None
    assert np.isnan(other.run(x)["p_value"]).all()
    assert np.isnan(other.predict(mixed).p_value).all()
    with pytest.raises(InputError, match="conformal: expected ConformalScores or None, got 3"):
        other.conformal = 3


def test_any_calibration_can_replace_the_files_own(exported, mixed, calibration_state):
    state = calibration_state
    other = runtime.load(exported.path, threads=1, calibration=state)
    assert other.calibration == state
    found = other.predict(mixed)
    expected = probability_of(state, found.score)
    np.testing.assert_allclose(found.probability, expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.entropy, binary_entropy(expected), rtol=0, atol=1e-5)
    assert found.verdict == other.policy.decide(
        Evidence(probability=found.probability, p_value=found.p_value)
    )
    assert found.probability_interval is None
    x = np.zeros((1, 3, 48, 48), np.float32)
    alone = other.run(x, ["entropy"])
    assert list(alone) == ["entropy"]
    assert alone["entropy"].dtype == np.float32
    assert list(other.run(x, ["probability", "anomaly_map"])) == ["probability", "anomaly_map"]


def test_a_calibrator_can_replace_the_files_own(exported, mixed):
    scores = np.linspace(0.0, 1.0, 40)
    labels = np.arange(40) >= 20
    given = with_bootstrap_band(Platt().fit(scores, labels), scores, labels, draws=20)
    other = runtime.load(exported.path, threads=1, calibration=given)
    found = other.predict(mixed)
    expected = given.predict_proba(found.score)
    np.testing.assert_allclose(found.probability, expected, rtol=0, atol=1e-7)
    low, high = found.probability_interval
    assert ((low <= expected) & (expected <= high)).all()
    assert found.to_records()[0]["probability_low"] == low[0]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("steep", InputError, "two finite numbers, a calibrator or its state, got 'steep'"),
        (3.0, InputError, "two finite numbers, a calibrator or its state, got 3.0"),
        ({"method": "spline"}, StateError, "expected a method of beta, isotonic, platt"),
        ({"method": "platt", "slope": 1.0}, StateError, "intercept is missing"),
    ],
)
def test_calibrations_that_are_none(exported, wrong, error, message):
    with pytest.raises(error, match=message):
        runtime.load(exported.path, calibration=wrong)


def test_damaged_calibrations_in_a_file(with_metadata):
    path = with_metadata(lambda document: document["calibration"].pop("slope"))
    with pytest.raises(
        StateError, match=r"metadata is damaged: calibration .platt.: slope is miss"
    ):
        runtime.load(path)
    path = with_metadata(lambda document: document.update(pixel_calibration={"slope": 1.0}))
    with pytest.raises(StateError, match=r"pixel_calibration .platt.: intercept is missing"):
        runtime.load(path)


def test_a_map_of_probabilities_has_to_be_in_the_file(model, mixed):
    assert "probability_map" not in model.outputs
    assert model.predict(mixed[:1]).probability_map is None
    with pytest.raises(InputError, match=r"outputs: expected some of .*got \['probability_map'\]"):
        model.run(np.zeros((1, 3, 48, 48), np.float32), ["probability_map"])


def test_the_graph_gives_the_verdicts_of_whatever_policy_is_set(exported, mixed):
    """Also under another calibration and other held-out scores; Python's verdicts are the rule."""
    model = runtime.load(exported.path, threads=1)
    x = np.stack([model.geometry.apply(image / np.float32(255)) for image in mixed[:2]])
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))

    def agrees():
        [codes] = model.run(x, ["verdict"]).values()
        assert codes.dtype == np.int64
        expected = model.predict(mixed[:2]).verdict
        assert [list(Verdict)[code] for code in codes] == expected
        return expected

    seen = [agrees()]
    for policy in (
        Policy(threshold=0.999),
        Policy(threshold=1e-6, entropy_threshold=0.0),
        Policy(p_value_threshold=0.1, p_value_defer=0.95, anomaly_threshold=0.2),
        Policy(suspicion_threshold=0.9),
    ):
        model.policy = policy
        seen.append(agrees())
    model.conformal = ConformalScores(np.linspace(0, 2, 9), anomalous=[0.01, 0.5])
    seen.append(agrees())
    model.calibration = exported.detector.calibrator.slope, -100.0
    model.policy = Policy()
    seen.append(agrees())
    model.conformal, model.calibration = None, None
    model.policy = Policy(p_value_threshold=0.1)
    assert agrees() == [Verdict.UNCALIBRATED] * 2
    assert {Verdict.ACCEPT, Verdict.REJECT, Verdict.DEFER} <= {one for row in seen for one in row}
