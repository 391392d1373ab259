from types import SimpleNamespace

import numpy as np
import pytest

from robustad.calibration import Beta, Isotonic, Platt, Temperature, calibrate
from robustad.calibration.fit import fitted
from robustad.errors import InputError
from robustad.verdict import Policy, binary_entropy


def sample(seed=0, size=100):
    rng = np.random.default_rng(seed)
    labels = (np.arange(size) % 3 == 0).astype(int)
    return rng.normal(1.5 * labels, 1.0), labels


def test_calibrate_sets_calibrator_and_policy():
    scores, labels = sample()
    detector = SimpleNamespace(calibrator=None, policy=None)
    assert calibrate(detector, scores, labels, threshold=0.3) is detector
    alone = Platt().fit(scores, labels)
    assert detector.calibrator.to_dict() == alone.to_dict()
    assert detector.policy.threshold == 0.3
    calibrator, policy = fitted(scores, labels, threshold=0.3)
    assert calibrator.to_dict() == alone.to_dict()
    assert policy == detector.policy


@pytest.mark.parametrize("share", [0.0, 0.05, 0.11, 0.5, 0.99])
def test_at_most_the_share_of_clean_images_is_deferred(share):
    scores, labels = sample()
    calibrator, policy = fitted(scores, labels, entropy_false_alarm=share)
    entropy = binary_entropy(calibrator.predict_proba(scores))
    deferred = (entropy > policy.entropy_threshold).mean()
    assert deferred <= share
    assert deferred > share - 0.011
    assert policy.entropy_threshold <= np.log(2)


def test_none_never_defers():
    scores, labels = sample()
    assert fitted(scores, labels, entropy_false_alarm=None)[1] == Policy()


def test_a_defect_rate_shifts_the_curve():
    scores, labels = sample()
    calibrator, _ = fitted(scores, labels, defect_rate=0.01)
    expected = Platt().fit(scores, labels).with_prior(0.01)
    assert np.array_equal(calibrator.predict_proba(scores), expected.predict_proba(scores))
    assert calibrator.predict_proba(scores).mean() < 0.1


@pytest.mark.filterwarnings("ignore:Isotonic")
@pytest.mark.parametrize(
    ("method", "kind"), [("temperature", Temperature), ("isotonic", Isotonic), ("auto", Platt)]
)
def test_other_methods_by_name(method, kind):
    scores, labels = sample()
    scores = scores - 0.7
    detector = SimpleNamespace(calibrator=None, policy=None)
    calibrate(detector, scores, labels, method=method)
    assert detector.calibrator.to_dict() == kind().fit(scores, labels).to_dict()


def test_a_calibrator_gives_the_method_and_stays_as_it_is():
    scores, labels = sample()
    given = Beta(score_range=(-9.0, 9.0))
    found, _ = fitted(scores, labels, method=given)
    assert found.score_range == (-9.0, 9.0)
    assert found is not given
    assert given.unfitted().fit(scores, labels).to_dict() == found.to_dict()


def test_weights_and_a_band():
    scores, labels = sample()
    weight = np.where(labels, 2.0, 1.0)
    found, _ = fitted(scores, labels, weight, bootstrap=30, defect_rate=0.1)
    plain = Platt().fit(scores, labels, weight).with_prior(0.1)
    assert found.slope == plain.slope
    low, high = found.predict_interval(scores)
    assert (low < found.predict_proba(scores)).all()
    assert (high < 0.9).any()
    assert found.band.draws == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "spline"}, "method: expected one of platt, .*, auto, got 'spline'"),
        ({"method": "beta"}, "beta needs the range of the scores"),
        ({"bootstrap": 3}, "draws: expected a whole number >= 20, got 3"),
        ({"sample_weight": np.zeros(100)}, "sample_weight: expected a positive weight"),
        ({"entropy_false_alarm": 1.0}, r"entropy_false_alarm: expected a share in \[0, 1\), got 1"),
        ({"entropy_false_alarm": -0.1}, "entropy_false_alarm: expected"),
        ({"entropy_false_alarm": float("nan")}, "entropy_false_alarm: expected"),
        ({"threshold": 0.0}, "threshold: expected"),
        ({"threshold": 1.0}, "threshold: expected"),
        ({"defect_rate": 0.0}, "expected"),
        ({"labels": np.zeros(100, int)}, "labels: expected both"),
        ({"scores": np.ones(100)}, "scores: expected"),
        ({"scores": np.full(100, np.nan)}, "scores: expected finite"),
    ],
)
def test_what_fails_leaves_the_detector_as_it_was(options, message):
    scores, labels = sample()
    detector = SimpleNamespace(calibrator="old", policy="old")
    arguments = {"scores": scores, "labels": labels, **options}
    with pytest.raises(InputError, match=message):
        calibrate(detector, **arguments)
    assert (detector.calibrator, detector.policy) == ("old", "old")
