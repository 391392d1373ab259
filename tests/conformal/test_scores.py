import json

import numpy as np
import pytest

from robustad.conformal import ConformalScores, p_values, threshold_for_fpr
from robustad.conformal.scores import evidence
from robustad.errors import InputError, StateError
from robustad.verdict import Evidence, Policy

RNG = np.random.default_rng(0)
NORMAL = RNG.gamma(2.0, 0.05, 60).astype(np.float32)
ANOMALOUS = (0.3 + RNG.gamma(2.0, 0.1, 30)).astype(np.float32)
NEW = np.concatenate([RNG.gamma(2.0, 0.05, 200), 0.3 + RNG.gamma(2.0, 0.1, 100)])
BOTH = ConformalScores(NORMAL, anomalous=ANOMALOUS)


def test_all_kinds_of_p_values():
    new = NEW.astype(np.float32)
    np.testing.assert_array_equal(BOTH.p_values(NEW), p_values(new, NORMAL))
    low = [(1 + (s >= NORMAL).sum()) / 61 for s in new]
    np.testing.assert_array_equal(BOTH.low_p_values(NEW), low)
    anomaly = [(1 + (s >= ANOMALOUS).sum()) / 31 for s in new]
    np.testing.assert_array_equal(BOTH.anomaly_p_values(NEW), anomaly)
    assert np.isnan(ConformalScores(NORMAL).anomaly_p_values(NEW)).all()
    smoothed = BOTH.p_values(NEW, smoothed=True, seed=1)
    np.testing.assert_array_equal(smoothed, p_values(new, NORMAL, smoothed=True, seed=1))
    assert (len(BOTH), BOTH.smallest_p) == (60, 1 / 61)
    assert repr(BOTH) == "ConformalScores(60 normal, 30 anomalous, split)"


def test_a_score_is_compared_in_the_precision_it_is_kept_in():
    held_out = ConformalScores([0.1, 0.2, 0.3])  # 0.1 is another number in float32
    assert held_out.p_values([0.1]).tolist() == [1.0]
    assert held_out.p_values(np.float32([0.3])).tolist() == [0.5]


@pytest.mark.parametrize("fpr", [0.02, 0.05, 0.1, 0.3])
def test_the_policy_rejects_from_the_score_threshold_on(fpr):
    policy = BOTH.policy(fpr=fpr)
    limit = threshold_for_fpr(NORMAL, fpr).value
    verdicts = policy.decide(Evidence(p_value=BOTH.p_values(NEW)))
    rejected = [verdict == "reject" for verdict in verdicts]
    assert rejected == (NEW.astype(np.float32) >= np.float32(limit)).tolist()


@pytest.mark.parametrize("p", [0.0, 1 / 62, 1 / 61, 0.05, 0.5, 60 / 61, 0.999, 1.0])
def test_the_score_at_a_p_value_is_where_it_is_reached(p):
    limit = BOTH.score_at(p)
    assert (BOTH.p_values(NEW) <= p).tolist() == (NEW.astype(np.float32) >= limit).tolist()
    if np.isfinite(limit):
        below = np.nextafter(np.float32(limit), np.float32(-np.inf))
        assert BOTH.p_values([limit])[0] <= p < BOTH.p_values([below])[0]
    with pytest.raises(InputError, match=r"p_value: expected a number in \[0, 1\], got 2"):
        BOTH.score_at(2)


def test_the_confident_policy_rejects_less():
    plain, sure = BOTH.policy(fpr=0.1), BOTH.policy(fpr=0.1, confidence=0.9)
    assert plain.p_value_threshold == 6 / 61
    found = BOTH.threshold_for_fpr(0.1, confidence=0.9)
    assert sure.p_value_threshold == found.expected_rate < plain.p_value_threshold
    p = BOTH.p_values(NEW)
    np.testing.assert_array_equal(
        p <= sure.p_value_threshold, NEW.astype(np.float32) >= found.value
    )


def test_every_rate_becomes_its_part():
    start = Policy(threshold=0.3, entropy_threshold=0.5, suspicion_threshold=0.9)
    policy = BOTH.policy(start, fpr=0.05, defer=0.2, suspicion=0.03, fnr=0.1)
    assert policy == Policy(
        threshold=0.3,
        entropy_threshold=0.5,
        p_value_threshold=3 / 61,
        p_value_defer=12 / 61,
        suspicion_threshold=1 / 61,
        anomaly_threshold=3 / 31,
    )
    assert BOTH.policy(policy, fpr=None) == Policy(threshold=0.3, entropy_threshold=0.5)


def test_rates_are_kept_by_the_verdicts():
    policy = BOTH.policy(fpr=0.1, defer=0.2, suspicion=0.05, fnr=0.1)
    reject, keep, hidden = [], [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        normal, bad = rng.gamma(2.0, 0.05, 61), 0.1 + rng.gamma(2.0, 0.05, 31)
        held_out = ConformalScores(normal[1:], anomalous=bad[1:])
        policy = held_out.policy(fpr=0.1, defer=0.2, suspicion=0.05, fnr=0.1)
        known = evidence([normal[0], bad[0]], np.full(2, np.nan), held_out)
        good, anomaly = policy.decide(known)
        reject.append(good == "reject")
        keep.append(anomaly == "accept")
        hidden.append(known.low_p_value[0] <= policy.suspicion_threshold)
    for found, rate in ((reject, 0.1), (keep, 0.1), (hidden, 0.05)):
        assert np.mean(found) <= rate + 3 * np.sqrt(rate * (1 - rate) / 400)


@pytest.mark.parametrize("method", ["split", "leave_one_out", "cross"])
@pytest.mark.parametrize("anomalous", [None, ANOMALOUS])
def test_saved_and_restored(method, anomalous):
    made = ConformalScores(
        NORMAL, anomalous=anomalous, method=method, monotone=method == "leave_one_out"
    )
    again = ConformalScores.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made
    assert again.normal.tobytes() == np.sort(NORMAL).tobytes()
    assert again != ConformalScores(NORMAL[1:])


def test_what_is_promised_depends_on_the_method():
    assert "at most alpha" in ConformalScores(NORMAL).guarantee
    monotone = ConformalScores(NORMAL, method="leave_one_out", monotone=True)
    assert "at most alpha" in monotone.guarantee
    assert "nothing for certain" in ConformalScores(NORMAL, method="cross").guarantee
    with pytest.raises(InputError, match=r"^confidence: expected None, as scores of images that"):
        monotone.threshold_for_fpr(0.2, confidence=0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normal": []}, "normal: expected scores of held-out normal images, got none"),
        ({"normal": [0.1, np.nan]}, "normal: expected finite values, got nan"),
        ({"normal": [0.1] * 20}, "normal: expected different values, got 0.1 20 times"),
        ({"normal": [1.0, 1.0 + 1e-12]}, "normal: expected different values, got 1 2 times"),
        ({"normal": [1.0, 1e39]}, "normal: expected finite values, got inf"),
        ({"anomalous": []}, "anomalous: expected scores of held-out anomalous images, got none"),
        ({"anomalous": [0.5, 0.5]}, "anomalous: expected different values"),
        ({"method": "hope"}, "method: expected one of split, leave_one_out, cross, got 'hope'"),
        ({"monotone": True}, "monotone: expected False with method 'split'"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        ConformalScores(**{"normal": NORMAL, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fpr": 0.01}, "fpr: 0.01 cannot be promised from 60 held-out images, .* least 99"),
        ({"fpr": 0.05, "defer": 0.04}, r"defer: expected more than fpr \(0.05\), got 0.04"),
        ({"fpr": None, "defer": 0.2}, r"defer: expected more than fpr \(None\), got 0.2"),
        ({"suspicion": 1.0}, r"suspicion: expected a number in \(0, 1\), got 1.0"),
        ({"suspicion": 0.01}, "suspicion: 0.01 cannot be promised from 60"),
        ({"defer": 0.01}, "defer: 0.01 cannot be promised from 60"),
        ({"fnr": 0.1}, "fnr: needs scores of held-out anomalous images, there are none"),
    ],
)
def test_rates_that_cannot_be_promised(options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        ConformalScores(NORMAL).policy(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("method"), "conformal: expected anomalous, method, monotone, normal, got"),
        (lambda s: s.update(extra=1), "conformal: expected .* extra"),
        (lambda s: s.update(method="hope"), "conformal: method: expected one of"),
        (lambda s: s.update(normal=[]), "conformal: normal: expected scores"),
        (lambda s: s.update(normal="x"), "conformal: normal: expected"),
        (lambda s: s.update(normal=None), "conformal: normal: expected"),
    ],
)
def test_damaged_states(change, message):
    state = BOTH.to_dict()
    change(state)
    with pytest.raises(StateError, match=f"^{message}"):
        ConformalScores.from_dict(state)
    with pytest.raises(StateError, match=r"^conformal: expected"):
        ConformalScores.from_dict([])
