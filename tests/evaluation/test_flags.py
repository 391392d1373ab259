import numpy as np
import pytest

from robustad.calibration import Platt
from robustad.conformal import ConformalScores
from robustad.evaluation.flags import attack_flags
from robustad.metrics import auroc, flag_auroc
from robustad.verdict import Policy, binary_entropy

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1], [30, 20])
CLEAN = RNG.normal(size=50) + 4 * LABELS
HELD_OUT = ConformalScores(RNG.normal(size=99))
PLATT = Platt().fit(CLEAN, LABELS)
POLICY = Policy(entropy_threshold=0.4)


def judged(score, clean=CLEAN, **changes):
    options = {"calibrator": PLATT, "conformal": HELD_OUT, "policy": POLICY, **changes}
    return attack_flags(score, LABELS, clean=clean, **options)


def test_the_entropy_flag():
    attacked = CLEAN + RNG.normal(size=50) * (1 - 2 * LABELS) * 2
    found = judged(attacked)["entropy"]
    before, after = (binary_entropy(PLATT.predict_proba(one)) for one in (CLEAN, attacked))
    assert found.auroc == pytest.approx(flag_auroc(before, after))
    assert found.rate == (after > 0.4).mean()
    assert found.rate_normal == (after[LABELS == 0] > 0.4).mean()
    assert found.rate_anomalous == (after[LABELS == 1] > 0.4).mean()
    area = np.trapezoid(found.detection, found.false_alarm)
    assert area == pytest.approx(found.auroc)


def test_an_overshooting_attack_looks_too_normal():
    overshot = CLEAN - 9 * LABELS
    found = judged(overshot)["too_normal"]
    assert found.rate_anomalous > 0.9
    assert found.auroc_anomalous > 0.95
    assert found.auroc_normal == pytest.approx(
        auroc(np.r_[1 - HELD_OUT.low_p_values(CLEAN), 1 - HELD_OUT.low_p_values(CLEAN[:30])],
              np.repeat([0, 1], [50, 30]))
    )  # fmt: skip
    typical = np.where(LABELS == 1, np.median(HELD_OUT.normal), CLEAN)
    assert judged(typical)["too_normal"].rate_anomalous == 0.0


def test_the_clean_pass_has_rates_alone():
    for flag in judged(CLEAN, clean=None).values():
        assert flag.rate is not None
        assert flag.auroc is None
        assert flag.false_alarm == flag.detection == []
    assert judged(CLEAN, clean=None)["too_normal"].rate_normal <= 0.2


def test_flags_without_a_threshold_or_what_they_need():
    assert judged(CLEAN, policy=Policy())["entropy"].rate is None
    few = ConformalScores(RNG.normal(size=9))
    assert judged(CLEAN, conformal=few)["too_normal"].rate is None  # 5% takes 19
    wide = judged(CLEAN, conformal=few, policy=Policy(suspicion_threshold=0.2))["too_normal"]
    assert wide.rate == (few.low_p_values(CLEAN) <= 0.2).mean()
    assert list(judged(CLEAN, calibrator=None)) == ["too_normal"]
    assert list(judged(CLEAN, conformal=None)) == ["entropy"]
    assert judged(CLEAN, calibrator=None, conformal=None) == {}
