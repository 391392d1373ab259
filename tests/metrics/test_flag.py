import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.errors import InputError
from robustad.metrics import entropy_threshold, flag_auroc, flag_curve, flag_rates
from robustad.verdict import Policy, Verdict, binary_entropy

ENTROPIES = st.lists(st.floats(0, float(np.log(2))), min_size=1, max_size=50)


def test_flag_auroc_is_the_chance_of_a_higher_entropy():
    assert flag_auroc([0.1, 0.2], [0.3, 0.4, 0.5]) == 1.0
    assert flag_auroc([0.3], [0.3]) == 0.5
    # An attack that makes the detector sure of itself is below chance, and says so.
    assert flag_auroc([0.3, 0.4], [0.0, 0.35]) == 0.25


@settings(deadline=None, max_examples=50)
@given(ENTROPIES, st.floats(0, 1, exclude_max=True))
def test_entropy_threshold_is_the_smallest_that_keeps_the_rate(clean, false_alarm):
    threshold = entropy_threshold(clean, false_alarm)
    assert flag_rates(clean, [0.5], threshold).false_alarm <= false_alarm
    if threshold > 0:
        below = float(np.nextafter(threshold, 0))
        assert flag_rates(clean, [0.5], below).false_alarm > false_alarm


def test_flag_rates_agree_with_the_policy():
    rng = np.random.default_rng(0)
    clean, attacked = rng.beta(0.2, 0.2, 200), rng.random(100)
    threshold = entropy_threshold(binary_entropy(clean))
    rates = flag_rates(binary_entropy(clean), binary_entropy(attacked), threshold)
    policy = Policy(entropy_threshold=threshold)
    deferred = [verdict is Verdict.DEFER for verdict in policy.decide(attacked)]
    assert rates.detection == np.mean(deferred)
    assert rates.false_alarm == 0.05


def test_maximal_entropies_make_a_threshold_that_a_policy_takes():
    threshold = entropy_threshold(binary_entropy(np.full(5, 0.5)))
    assert Policy(entropy_threshold=threshold).entropy_threshold == threshold
    assert flag_rates([threshold], [threshold], threshold) == (0.0, 0.0)


@pytest.mark.parametrize("measure", [flag_auroc, lambda a, b: flag_rates(a, b, 0.3)])
@pytest.mark.parametrize(
    ("clean", "attacked", "message"),
    [
        ([np.nan], [0.1], "clean_entropy: expected nats .* nan at index 0; a detector that is not"),
        (
            [0.1],
            [0.1, 1.0],
            r"attacked_entropy: expected nats in \[0, 0.6931\], got 1.0 at index 1",
        ),
        ([-0.1], [0.1], "clean_entropy: .* got -0.1 at index 0"),
        ([], [0.1], r"clean_entropy: expected shape \(n,\) with n >= 1, got \(0,\)"),
        ([0.1], [], "attacked_entropy: expected shape"),
    ],
)
def test_bad_entropies_are_named(measure, clean, attacked, message):
    with pytest.raises(InputError, match=message):
        measure(clean, attacked)


def test_bad_thresholds_are_named():
    with pytest.raises(InputError, match="threshold: expected nats"):
        flag_rates([0.1], [0.1], 0.8)
    with pytest.raises(InputError, match=r"false_alarm: expected a number in \[0, 1\), got 1.0"):
        entropy_threshold([0.1], 1.0)
    with pytest.raises(InputError, match="clean_entropy"):
        entropy_threshold([np.nan])


@settings(deadline=None, max_examples=50)
@given(ENTROPIES, ENTROPIES)
def test_the_curve_has_the_area_and_the_points_of_the_rates(clean, attacked):
    curve = flag_curve(clean, attacked)
    assert np.trapezoid(curve.detection, curve.false_alarm) == pytest.approx(
        flag_auroc(clean, attacked)
    )
    assert (curve.false_alarm[0], curve.detection[0], curve.threshold[0]) == (0.0, 0.0, np.inf)
    assert (curve.false_alarm[-1], curve.detection[-1]) == (1.0, 1.0)
    for false_alarm, detection, limit in zip(*curve, strict=True):
        assert false_alarm == np.mean(np.asarray(clean) >= limit)
        assert detection == np.mean(np.asarray(attacked) >= limit)


@pytest.mark.parametrize(
    ("clean", "attacked", "message"),
    [
        ([], [0.1], r"clean: expected shape \(n,\) with n >= 1"),
        ([0.1], [np.nan], "attacked: expected finite values, got nan"),
    ],
)
def test_bad_values_are_named(clean, attacked, message):
    with pytest.raises(InputError, match=message):
        flag_curve(clean, attacked)
