import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.conformal import RiskControl, RiskThreshold, control_risk
from robustad.errors import InputError, StateError


def brute_force(losses, candidates, alpha, bound, rising):
    """Try every candidate, from the safe end until the first that breaks the bound."""
    n, best = len(losses), None
    order = range(len(candidates)) if rising else reversed(range(len(candidates)))
    for j in order:
        if n / (n + 1) * np.mean(losses[:, j]) + bound / (n + 1) > alpha + 1e-12:
            break
        best = candidates[j]
    return best


@settings(deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 60),
    st.integers(1, 30),
    st.sampled_from([0.05, 0.1, 0.3, 0.6]),
    st.sampled_from([1.0, 0.5, 2.0]),
    st.booleans(),
)
def test_brute_force_finds_the_same(seed, n, size, alpha, bound, rising):
    rng = np.random.default_rng(seed)
    losses = bound * np.sort(rng.random((n, size)) ** 2, axis=1)
    losses = losses if rising else losses[:, ::-1]
    candidates = np.sort(rng.normal(size=size))
    expected = brute_force(losses, candidates, alpha, bound, rising)
    if expected is None:
        with pytest.raises(InputError, match="alpha: "):
            control_risk(losses, candidates, alpha, bound=bound, rising=rising)
        return
    found = control_risk(losses, candidates, alpha, bound=bound, rising=rising)
    assert found.value == expected
    assert found.risk == pytest.approx(losses[:, list(candidates).index(expected)].mean())


def test_it_is_mapies():
    methods = pytest.importorskip("mapie.risk_control.methods")
    rng = np.random.default_rng(0)
    grid = np.linspace(0.0, 1.0, 101)
    maps, alphas = rng.random((50, 30)), np.array([0.05, 0.1, 0.2])
    losses = (maps[:, :, None] < grid).mean(axis=1)
    _, bound = methods.get_r_hat_plus(losses, grid, "crc", None, None, None)
    theirs = methods.find_best_predict_param(grid, bound, alphas)
    ours = [control_risk(losses, grid, float(a), rising=True).value for a in alphas]
    np.testing.assert_allclose(ours, theirs)


def test_the_expected_loss_is_kept_on_new_images():
    rng = np.random.default_rng(0)
    grid = np.linspace(0.0, 1.0, 501)
    lost = []
    for _ in range(1500):
        levels = rng.random((31, 1)) * 0.5  # images differ: one has its pixels lower than another
        maps = levels + 0.5 * rng.random((31, 20))
        losses = (maps[:30, :, None] < grid).mean(axis=1)
        found = control_risk(losses, grid, 0.1, rising=True)
        lost.append((maps[30] < found.value).mean())
    error = np.std(lost) / math.sqrt(1500)
    assert np.mean(lost) <= 0.1 + 3 * error
    assert np.mean(lost) > 0.1 - 1 / 31 - 4 * error  # and is not kept by being careless


def test_a_bound_met_exactly_is_met():
    # (1 + 0) / 10 = 0.1 for nine images without loss
    assert control_risk(np.zeros((9, 2)), [0.0, 1.0], 0.1, rising=True).value == 1.0


def test_too_few_images_and_no_safe_candidate():
    with pytest.raises(
        InputError,
        match=r"^alpha: 0.1 cannot be promised from 8 held-out images, it takes at least 9$",
    ):
        control_risk(np.zeros((8, 2)), [0.0, 1.0], 0.1, rising=True)
    with pytest.raises(
        InputError, match=r"^alpha: no candidate keeps 0.1, the safest one loses 0.5 on average$"
    ):
        control_risk(np.full((50, 2), 0.5), [0.0, 1.0], 0.1, rising=True)
    with pytest.raises(InputError, match="losses: expected those of at least one held-out image"):
        RiskControl([0.0], rising=True).choose(0.1)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([0.0], "losses: expected one a candidate, 2, got 1"),
        ([0.5, 0.1], "losses: expected losses that rise with the candidates"),
        ([0.0, 1.5], r"losses: expected values in \[0, 1\], got 0..1.5"),
        ([-0.1, 0.5], r"losses: expected values in \[0, 1\], got -0.1"),
        ([0.0, math.nan], "losses: expected finite values"),
    ],
)
def test_bad_losses_are_named(losses, message):
    with pytest.raises(InputError, match=f"^{message}"):
        RiskControl([0.0, 1.0], rising=True).update(losses)


def test_bad_options_are_named():
    with pytest.raises(InputError, match="candidates: expected strictly ascending"):
        RiskControl([1.0, 1.0], rising=True)
    with pytest.raises(InputError, match="candidates: expected strictly ascending"):
        RiskControl([], rising=True)
    with pytest.raises(InputError, match="bound: expected a finite number > 0, got 0"):
        RiskControl([1.0], rising=True, bound=0)
    with pytest.raises(InputError, match=r"losses: expected shape \(n, L\), got \(2,\)"):
        control_risk([0.0, 1.0], [0.0, 1.0], 0.1, rising=True)
    control = RiskControl([1.0], rising=False)
    assert np.isnan(control.risk).all()
    control.update([0.0])
    for alpha in (0.0, 1.0):
        with pytest.raises(InputError, match=r"alpha: expected a number in \(0, 1\)"):
            control.choose(alpha)
    with pytest.raises(InputError, match="losses that fall"):
        RiskControl([0.0, 1.0], rising=False).update([0.0, 1.0])


@pytest.mark.parametrize("value", [0.25, math.inf, -math.inf])
def test_a_threshold_is_saved_and_restored(value):
    made = RiskThreshold(value=value, loss="pixel_miss", alpha=0.1, n=20, risk=0.05)
    assert RiskThreshold.from_dict(made.to_dict()) == made
    assert "pixel miss is at most 10%" in made.guarantee


@pytest.mark.parametrize(
    "change", [{"value": "much"}, {"n": 0}, {"alpha": 2}, {"extra": 1}, {"value": "nan"}]
)
def test_a_damaged_threshold_is_refused(change):
    state = RiskThreshold(value=0.2, loss="pixel_miss", alpha=0.1, n=20, risk=0.05).to_dict()
    with pytest.raises(StateError, match="risk control: damaged"):
        RiskThreshold.from_dict({**state, **change})
