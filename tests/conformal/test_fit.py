import math

import numpy as np
import pytest

from robustad import conformal
from robustad.conformal import ConformalScores, LeftOut, threshold_for_fpr
from robustad.data import Sample
from robustad.detectors import AnomalyDINO, load
from robustad.errors import InputError
from robustad.verdict import Policy, Verdict

RNG = np.random.default_rng(0)
NORMAL = RNG.integers(0, 60, (30, 64, 64, 3), np.uint8)
DEFECT = NORMAL[:6].copy()
DEFECT[:, 20:40, 20:40] = 255


@pytest.fixture
def detector():
    return AnomalyDINO("filters", image_size=64).fit(NORMAL[:4])


def test_held_out_normals_alone_give_verdicts(detector):
    held_out = detector.predict(NORMAL[4:]).score
    assert conformal.fit(detector, NORMAL[4:], fpr=0.1) is detector
    assert detector.conformal == ConformalScores(held_out)
    assert detector.policy == Policy(p_value_threshold=2 / 27)
    found = detector.predict(DEFECT)
    assert found.p_value.tolist() == [1 / 27] * 6
    assert found.verdict == [Verdict.REJECT] * 6
    assert np.isnan(found.probability).all()
    normal = detector.predict(NORMAL[4:])
    limit = threshold_for_fpr(held_out, 0.1).value
    assert [v is Verdict.REJECT for v in normal.verdict] == (normal.score >= limit).tolist()
    again = conformal.fit(detector, scores=held_out, fpr=0.1)
    assert again.conformal == ConformalScores(held_out)


def test_fitted_images_among_those_held_out_are_noticed(detector):
    with pytest.warns(UserWarning, match=r"normals: 2 of 28 images score 0 \(image 0, image 1\)"):
        conformal.fit(detector, NORMAL[2:], fpr=0.1)


def test_every_rate_reaches_the_policy(detector):
    conformal.fit(
        detector, NORMAL[4:], anomalies=DEFECT, fpr=0.1, defer=0.3, suspicion=0.05, fnr=0.2
    )
    assert detector.policy == Policy(
        p_value_threshold=2 / 27,
        p_value_defer=8 / 27,
        suspicion_threshold=1 / 27,
        anomaly_threshold=1 / 7,
    )
    scores = detector.predict(DEFECT).score
    assert detector.conformal.anomalous.tolist() == sorted(scores.tolist())
    assert set(detector.predict(NORMAL[4:]).verdict) >= {Verdict.ACCEPT, Verdict.DEFER}


def test_calibration_and_the_rest_of_the_policy_stay(detector):
    from robustad.calibration import Platt

    detector.calibrator = Platt().fit([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])
    detector.policy = Policy(threshold=0.3, entropy_threshold=0.6, suspicion_threshold=0.2)
    calibrator = detector.calibrator
    conformal.fit(detector, NORMAL[4:], fpr=0.1)
    assert detector.calibrator is calibrator
    assert detector.policy == Policy(threshold=0.3, entropy_threshold=0.6, p_value_threshold=2 / 27)


def test_calibrating_afterwards_keeps_the_p_value_rule(detector):
    from robustad.calibration import calibrate

    conformal.fit(detector, NORMAL[4:], fpr=0.1, defer=0.2)
    calibrate(detector, [0.1, 0.2, 0.3, 0.5, 0.4, 0.6], [0, 0, 0, 1, 1, 1], threshold=0.4)
    assert detector.policy.p_value_threshold == 2 / 27
    assert detector.policy.p_value_defer == 5 / 27
    assert detector.policy.threshold == 0.4
    assert detector.conformal is not None


@pytest.mark.parametrize(("method", "folds"), [("leave_one_out", None), ("cross", 3)])
@pytest.mark.parametrize("whiten", [False, True])
def test_the_shots_themselves(method, folds, whiten):
    detector = AnomalyDINO("filters", image_size=64, whiten=whiten).fit(NORMAL[:6])
    conformal.fit(detector, NORMAL[:6], method=method, folds=folds, fpr=0.2)
    expected = LeftOut(detector, NORMAL[:6], folds=folds).scores
    assert detector.conformal == ConformalScores(expected, method=method, monotone=not whiten)
    assert detector.predict(DEFECT).p_value.tolist() == [1 / 7] * 6


@pytest.mark.parametrize("options", [{}, {"whiten": False}, {"coreset": 0.5}, {"rotations": 2}])
def test_other_images_than_those_it_was_fitted_on_are_refused(options):
    detector = AnomalyDINO("filters", image_size=64, **options).fit(NORMAL[:6])
    conformal.fit(detector, NORMAL[:6][::-1], method="leave_one_out", fpr=0.2)  # in any order
    for wrong in (NORMAL[1:7], NORMAL[:5], NORMAL[:7]):
        with pytest.raises(InputError, match=r"^normals: are not the images that the detector was"):
            conformal.fit(detector, wrong, method="leave_one_out", fpr=0.3)
    untouched = AnomalyDINO("filters", image_size=64)
    with pytest.raises(InputError, match=r"^detector: has not been fitted yet: call fit\(images\)"):
        conformal.fit(untouched, NORMAL[:6], method="leave_one_out", fpr=0.2)


def test_fitting_anew_forgets_it(detector):
    conformal.fit(detector, NORMAL[4:])
    detector.fit(NORMAL[:2])
    assert detector.conformal is None
    assert detector.policy == Policy()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "normals: expected either images or scores, got both or neither"),
        ({"normals": NORMAL, "scores": [0.1, 0.2]}, "normals: expected either images or scores"),
        ({"normals": NORMAL[:5]}, "fpr: 0.05 cannot be promised from 5 .* at least 19"),
        ({"normals": NORMAL[:1], "method": "leave_one_out"}, "images: expected at least 2 to leav"),
        ({"normals": NORMAL[:4], "method": "cross"}, "folds: expected a number with method 'cro"),
        ({"normals": NORMAL[:4], "folds": 2}, "folds: expected a number with method 'cross' alone"),
        ({"normals": NORMAL[:4], "method": "hope"}, "method: expected one of split, leave_one_out"),
        ({"scores": [0.1, 0.2], "method": "leave_one_out"}, "scores: method 'leave_one_out' needs"),
        ({"scores": []}, "normal: expected scores of held-out normal images, got none"),
        ({"scores": [0.5] * 30}, "normal: expected different values, got 0.5 30 times"),
        ({"scores": [0.5, math.nan]}, "normal: expected finite values, got nan"),
        ({"normals": NORMAL, "fnr": 0.1}, "fnr: needs scores of held-out anomalous images"),
        (
            {"normals": NORMAL, "anomalies": DEFECT, "anomalous_scores": [0.1]},
            "anomalies: expected either images or scores, got both",
        ),
        (
            {"normals": NORMAL[:4], "method": "leave_one_out", "fpr": 0.3, "confidence": 0.5},
            "confidence: expected None",
        ),
    ],
)
def test_bad_input_leaves_the_detector_as_it_was(detector, options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        conformal.fit(detector, **options)
    assert detector.conformal is None
    assert detector.policy == Policy()


# Pixels


def samples(count=12):
    found = []
    for i in range(count):
        image, mask = NORMAL[i].copy(), np.zeros((64, 64), bool)
        if i % 2:
            mask[20:40, 20 : 30 + i] = True
            image[mask] = 255
        found.append(Sample(image=image, label=i % 2, name=str(i), mask=mask if i % 2 else None))
    return found


def test_a_pixel_threshold_from_defects(detector):
    chosen = samples(24)
    conformal.fit_pixels(detector, chosen, alpha=0.2)
    found = detector.pixel_threshold
    assert (found.loss, found.alpha, found.n) == ("pixel_miss", 0.2, 12)
    missed = []
    for sample in chosen[1::2]:
        [mask] = detector.predict([sample.image]).masks()
        missed.append(1 - mask[sample.mask].mean())
    assert np.mean(missed) == pytest.approx(found.risk)
    assert (sum(missed) + 1) / 13 <= 0.2


def test_a_pixel_threshold_from_normals_alone(detector):
    chosen = samples(24)[::2]
    conformal.fit_pixels(detector, chosen, alpha=0.1, loss="pixel_false_alarm")
    alarms = [detector.predict([one.image]).masks()[0].mean() for one in chosen]
    assert (sum(alarms) + 1) / 13 <= 0.1


def test_pixels_that_cannot_be_had(detector):
    with pytest.raises(InputError, match=r"^samples: expected held-out anomalous images, got none"):
        conformal.fit_pixels(detector, samples()[::2])
    with pytest.raises(InputError, match=r"^samples: expected held-out normal images, got none"):
        conformal.fit_pixels(detector, samples()[1::2], loss="pixel_false_alarm")
    maskless = [Sample(image=NORMAL[0], label=1, name="bare")]
    with pytest.raises(InputError, match=r"^bare: expected a mask of its defect, got none"):
        conformal.fit_pixels(detector, maskless)
    with pytest.raises(InputError, match=r"^alpha: 0.1 cannot be promised from 6 .* at least 9"):
        conformal.fit_pixels(detector, samples())
    assert detector.pixel_threshold is None


def test_all_of_it_is_saved(detector, tmp_path):
    conformal.fit(detector, NORMAL[4:], anomalies=DEFECT, fpr=0.1, defer=0.2, fnr=0.2)
    conformal.fit_pixels(detector, samples(24), alpha=0.2)
    detector.save(tmp_path / "d.safetensors")
    again = load(tmp_path / "d.safetensors")
    assert again.conformal == detector.conformal
    assert again.policy == detector.policy
    assert again.pixel_threshold == detector.pixel_threshold
    one, other = detector.predict(NORMAL[:8]), again.predict(NORMAL[:8])
    np.testing.assert_array_equal(one.p_value, other.p_value)
    assert one.verdict == other.verdict
    assert other.pixel_threshold == detector.pixel_threshold.value
