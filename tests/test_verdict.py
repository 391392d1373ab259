import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from robustad.errors import InputError
from robustad.verdict import Evidence, Policy, Verdict, binary_entropy

A, R, D, U = Verdict.ACCEPT, Verdict.REJECT, Verdict.DEFER, Verdict.UNCALIBRATED
LN2 = math.log(2)
PROBABILITIES = [0.0, 0.05, 0.3, 0.499, 0.5, 0.501, 0.7, 0.95, 1.0, math.nan]


@pytest.mark.parametrize(
    ("threshold", "limit", "expected"),
    [
        (0.5, None, [A, A, A, A, R, R, R, R, R, U]),
        (0.3, None, [A, A, R, R, R, R, R, R, R, U]),
        (0.97, None, [A, A, A, A, A, A, A, A, R, U]),
        # H(0.3) = H(0.7) = 0.6109, H(0.05) = H(0.95) = 0.1985
        (0.5, 0.62, [A, A, A, D, D, D, R, R, R, U]),
        (0.5, 0.60, [A, A, D, D, D, D, D, R, R, U]),
        (0.2, 0.62, [A, A, R, D, D, D, R, R, R, U]),
        (0.5, 0.1, [A, D, D, D, D, D, D, D, R, U]),
        (0.5, 0.0, [A, D, D, D, D, D, D, D, R, U]),
        (0.5, LN2, [A, A, A, A, R, R, R, R, R, U]),
    ],
)
def test_table_of_verdicts(threshold, limit, expected):
    policy = Policy(threshold=threshold, entropy_threshold=limit)
    assert policy.decide(np.array(PROBABILITIES)) == expected
    single = policy.decide(np.array(PROBABILITIES, np.float32))
    if threshold == 0.5:  # 0.3 is another number in float32
        assert single == expected


def test_a_limit_that_equals_the_entropy_does_not_defer():
    limit = float(binary_entropy(np.array([0.7]))[0])
    assert Policy(entropy_threshold=limit).decide(np.array([0.7])) == [R]
    assert Policy(entropy_threshold=limit - 1e-12).decide(np.array([0.7])) == [D]


def test_no_images_no_verdicts():
    assert Policy().decide(np.array([])) == []


def test_verdicts_are_strings():
    assert json.dumps([A, R, D, U]) == '["accept", "reject", "defer", "uncalibrated"]'
    assert Verdict("defer") is D
    assert f"{A}" == "accept"


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_thresholds_out_of_range(threshold):
    with pytest.raises(
        InputError, match=rf"^threshold: expected a probability in \(0, 1\), got {threshold}$"
    ):
        Policy(threshold=threshold)


@pytest.mark.parametrize("limit", [-0.01, 0.7, 1.0, math.nan, math.inf])
def test_entropy_limits_out_of_range(limit):
    with pytest.raises(
        InputError, match=rf"^entropy_threshold: expected nats in \[0, 0.6931\], got {limit}$"
    ):
        Policy(entropy_threshold=limit)


@settings(deadline=None)
@given(st.floats(0, 1))
def test_entropy_of_one_coin(p):
    [ours] = binary_entropy(np.array([p]))
    assert ours == pytest.approx(entropy([p, 1 - p]), rel=1e-12, abs=1e-15)
    assert 0.0 <= ours <= LN2 + 1e-15


def test_entropy_at_the_ends_and_beyond():
    with np.errstate(all="raise"):
        ours = binary_entropy(np.array([0.0, 1.0, 0.5, math.nan], np.float32))
    assert ours.dtype == np.float64
    np.testing.assert_array_equal(ours, [0.0, 0.0, LN2, math.nan])
    assert binary_entropy(np.full((2, 3), 0.5)).shape == (2, 3)
    tiny = 1e-300  # -p log p - (1 - p) log(1 - p) -> p (1 - log p)
    assert binary_entropy(np.array([tiny]))[0] == pytest.approx(tiny * (1 - math.log(tiny)))


# The other parts of a policy

N = math.nan
FULL = Policy(
    threshold=0.6,
    entropy_threshold=0.66,
    p_value_threshold=0.05,
    p_value_defer=0.2,
    anomaly_threshold=0.1,
    suspicion_threshold=0.02,
)


def one(policy, p=N, p_value=N, low=N, anomaly=N, interval=None):
    known = Evidence(
        probability=np.array([p]),
        p_value=np.array([p_value]),
        low_p_value=np.array([low]),
        anomaly_p_value=np.array([anomaly]),
    )
    return policy.decide(known, interval=interval)[0]


@pytest.mark.parametrize(
    ("p", "p_value", "low", "anomaly", "expected"),
    [
        (0.1, 0.5, 0.6, 0.01, A),
        (0.9, 0.01, 1.0, 0.80, R),
        (0.9, 0.05, 1.0, 0.11, R),
        (0.6, 0.01, 1.0, 0.80, D),  # entropy 0.673
        (0.1, 0.5, 0.02, 0.01, D),  # too normal
        (0.9, 0.01, 0.01, 0.80, D),  # suspicion comes before a rejection, too
        (0.1, 0.2, 0.6, 0.01, D),  # between the two p-value thresholds
        (0.1, 0.06, 0.6, 0.01, D),
        (0.1, 0.201, 0.6, 0.01, A),
        (0.1, 0.5, 0.6, 0.11, D),  # the anomaly rule says reject
        (0.9, 0.5, 0.6, 0.11, D),  # the p-value rule says accept
        (0.1, 0.01, 0.9, 0.11, D),  # the probability rule says accept
        (N, 0.5, 0.6, 0.01, U),  # the entropy flag has nothing to look at
        (0.1, N, 0.6, 0.01, U),
        (0.1, 0.5, N, 0.01, U),
        (0.1, 0.5, 0.6, N, U),
    ],
)
def test_all_parts_together(p, p_value, low, anomaly, expected):
    assert one(FULL, p, p_value, low, anomaly) is expected


@pytest.mark.parametrize(
    ("policy", "known", "expected"),
    [
        (Policy(p_value_threshold=0.1), {"p_value": 0.1}, R),
        (Policy(p_value_threshold=0.1), {"p_value": 0.101}, A),
        (Policy(p_value_threshold=0.0), {"p_value": 1e-9}, A),
        (Policy(p_value_threshold=0.1), {"p": 0.9}, U),
        (Policy(p_value_threshold=0.1), {"p": 0.9, "p_value": 0.5}, D),
        (Policy(anomaly_threshold=0.1), {"anomaly": 0.1}, A),
        (Policy(anomaly_threshold=0.1), {"anomaly": 0.2}, R),
        (Policy(anomaly_threshold=0.0), {"anomaly": 1e-9}, R),
        (Policy(suspicion_threshold=0.1), {"low": 0.05}, U),  # a flag is no rule
        (Policy(suspicion_threshold=0.1), {"low": 0.05, "p": 0.2}, D),
        (Policy(), {}, U),
        (Policy(), {"p_value": 0.01, "low": 0.01, "anomaly": 0.5}, U),  # not asked for
    ],
)
def test_each_part_alone(policy, known, expected):
    assert one(policy, **known) is expected


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ([0.1, 0.4], A),
        ([0.1, 0.499], A),
        ([0.1, 0.5], D),
        ([0.3, 0.3], A),
        ([0.6, 0.9], D),  # the certified score may lie elsewhere than the plain one
        ([N, 0.4], D),
        ([N, N], D),
    ],
)
def test_intervals_of_probabilities(interval, expected):
    assert one(Policy(), 0.3, interval=np.array([interval])) is expected
    assert one(Policy(), N, interval=np.array([interval])) is U


def test_intervals_of_p_values():
    policy = Policy(p_value_threshold=0.05)

    def decided(p_value, low_score, high_score):
        ends = Evidence(p_value=np.array([low_score])), Evidence(p_value=np.array([high_score]))
        return one(policy, p_value=p_value, interval=ends)

    assert decided(0.3, 0.6, 0.1) is A
    assert decided(0.3, 0.6, 0.05) is D
    assert decided(0.01, 0.04, 0.01) is R
    assert decided(0.3, 0.6, N) is D
    # a rule in force that the interval says nothing of cannot be certified
    assert one(policy, 0.1, 0.3, interval=np.array([[0.1, 0.2]])) is D


shares = st.one_of(st.just(N), st.floats(0, 1))
limits = st.one_of(st.none(), st.floats(0.001, 0.999))


@st.composite
def policies(draw):
    low = draw(limits)
    return Policy(
        threshold=draw(st.floats(0.001, 0.999)),
        entropy_threshold=draw(st.one_of(st.none(), st.floats(0, LN2))),
        p_value_threshold=low,
        p_value_defer=None if low is None else draw(st.sampled_from([None, (1 + low) / 2])),
        anomaly_threshold=draw(limits),
        suspicion_threshold=draw(limits),
    )


def says_reject(policy, p, p_value, anomaly):
    """What each rule in force says."""
    said = [] if math.isnan(p) else [p >= policy.threshold]
    if policy.p_value_threshold is not None and not math.isnan(p_value):
        said.append(p_value <= policy.p_value_threshold)
    if policy.anomaly_threshold is not None and not math.isnan(anomaly):
        said.append(anomaly > policy.anomaly_threshold)
    return said


@settings(deadline=None)
@given(policies(), shares, shares, shares, shares)
def test_nothing_is_accepted_that_a_rule_rejects_nor_the_other_way_round(
    policy, p, p_value, low, anomaly
):
    verdict = one(policy, p, p_value, low, anomaly)
    said = says_reject(policy, p, p_value, anomaly)
    if verdict is A:
        assert said
        assert not any(said)
    elif verdict is R:
        assert said
        assert all(said)


@settings(deadline=None)
@given(policies(), shares, shares, shares, shares, st.data())
def test_more_anomalous_evidence_never_turns_a_rejection_into_acceptance(
    policy, p, p_value, low, anomaly, data
):
    def more(value, rising):
        if math.isnan(value):
            return value
        return data.draw(st.floats(value, 1) if rising else st.floats(0, value))

    before = one(policy, p, p_value, low, anomaly)
    after = one(policy, more(p, True), more(p_value, False), more(low, True), more(anomaly, True))
    assert (before, after) != (R, A)


@settings(deadline=None)
@given(policies(), shares, shares, shares, shares, st.data())
def test_one_more_part_only_defers(policy, p, p_value, low, anomaly, data):
    before = one(policy, p, p_value, low, anomaly)
    name = data.draw(
        st.sampled_from(
            ["entropy_threshold", "p_value_threshold", "anomaly_threshold", "suspicion_threshold"]
        )
    )
    if getattr(policy, name) is not None or before is U:
        return
    longer = dataclasses.replace(policy, **{name: data.draw(st.floats(0.01, 0.6))})
    assert one(longer, p, p_value, low, anomaly) in (before, D, U)


@settings(deadline=None)
@given(policies(), shares, shares, shares, shares, st.floats(0, 1), st.floats(0, 1))
def test_an_interval_only_defers(policy, p, p_value, low, anomaly, first, second):
    ends = np.array([[min(first, second), max(first, second)]])
    before, after = (one(policy, p, p_value, low, anomaly, interval=i) for i in (None, ends))
    assert after in (before, D) if before is not U else after is U


@settings(deadline=None)
@given(policies())
def test_a_policy_is_saved_and_restored(policy):
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


def test_policies_of_older_versions():
    assert Policy().to_dict() == {"threshold": 0.5, "entropy_threshold": None}
    old = {"threshold": 0.3, "entropy_threshold": 0.6}
    assert Policy.from_dict(old) == Policy(threshold=0.3, entropy_threshold=0.6)
    assert Policy.from_dict({}) == Policy()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"limit": 1}, "policy: expected threshold, entropy_threshold, .* got 'limit'"),
        ({"threshold": None}, "policy: threshold: expected a number, got None"),
        ({"threshold": "0.5"}, "policy: threshold: expected a number, got '0.5'"),
        ({"p_value_threshold": True}, "policy: p_value_threshold: expected a number, got True"),
        ({"p_value_threshold": 1.0}, r"p_value_threshold: expected a share in \[0, 1\), got 1.0"),
    ],
)
def test_damaged_policies(state, message):
    with pytest.raises(InputError, match=f"^{message}"):
        Policy.from_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p_value_threshold": -0.1}, r"p_value_threshold: expected a share in \[0, 1\), got -0.1"),
        ({"anomaly_threshold": N}, r"anomaly_threshold: expected a share in \[0, 1\), got nan"),
        ({"suspicion_threshold": 0.0}, r"suspicion_threshold: expected a share in \(0, 1\), got 0"),
        ({"p_value_defer": 0.2}, r"p_value_defer: expected more than p_value_threshold \(None\)"),
        ({"p_value_threshold": 0.2, "p_value_defer": 0.2}, "p_value_defer: expected more than"),
    ],
)
def test_shares_out_of_range(options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        Policy(**options)


def test_evidence_of_several_shapes():
    with pytest.raises(InputError, match=r"evidence: .* got probability \(2,\), p_value \(3,\)"):
        Evidence(probability=np.zeros(2), p_value=np.zeros(3))
    with pytest.raises(InputError, match=r"^evidence: expected arrays of one shape .*, got none"):
        Evidence()
    with pytest.raises(InputError, match=r"got probability \(2, 2\)"):
        Policy().decide(np.zeros((2, 2)))


def test_intervals_that_do_not_fit():
    with pytest.raises(InputError, match=r"interval: expected shape \(1, 2\), got \(2,\)"):
        one(Policy(), 0.3, interval=np.zeros(2))
    with pytest.raises(InputError, match=r"interval: expected low <= high, got \[0.9, 0.1\]"):
        one(Policy(), 0.3, interval=np.array([[0.9, 0.1]]))
    two = Evidence(probability=np.zeros(2))
    with pytest.raises(InputError, match="interval: expected 1 images, got 2 and 2"):
        one(Policy(), 0.3, interval=(two, two))
