import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from robustad.errors import InputError
from robustad.verdict import Policy, Verdict, binary_entropy

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
