import tracemalloc

import numpy as np
import pytest

from robustad.conformal import PixelRisk, control_risk
from robustad.conformal.pixels import SHIFT, _keys, _values
from robustad.errors import InputError


def maps_of(count, seed=0, edge=24):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        mask = np.zeros((edge, edge), bool)
        row, column, size = [*rng.integers(2, edge - 8, 2).tolist(), int(rng.integers(2, 8))]
        mask[row : row + size, column : column + size] = True
        yield (rng.gamma(2.0, 0.1, (edge, edge)) + rng.uniform(0, 0.5) * mask - 0.1), mask


def grid_of(maps):
    """Every candidate between the smallest and the largest score, and both infinities."""
    keys = [_keys(np.float32(one).ravel()) >> SHIFT for one, _ in maps]
    low, high = min(int(k.min()) for k in keys), max(int(k.max()) for k in keys)
    return np.r_[-np.inf, _values(np.arange(low, high + 1, dtype=np.uint32)), np.inf]


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_misses_by_brute_force(alpha):
    maps = list(maps_of(40))
    risk = PixelRisk()
    for one, mask in maps:
        risk.update(one, mask)
    grid = grid_of(maps)
    losses = [(np.float32(one)[mask][:, None] < grid).mean(axis=0) for one, mask in maps]
    expected = control_risk(losses, grid, alpha, rising=True)
    found = risk.choose(alpha)
    assert found.value == expected.value
    assert found.risk == pytest.approx(expected.risk)
    # among all real numbers, which only the scores themselves need to be tried of
    every = np.unique(np.concatenate([np.float32(one)[mask] for one, mask in maps]))
    losses = [(np.float32(one)[mask][:, None] < every).mean(axis=0) for one, mask in maps]
    best = control_risk(losses, every, alpha, rising=True).value
    assert found.value <= best <= found.value + abs(found.value) * 2.0**-11 + 1e-12


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_false_alarms_by_brute_force(alpha):
    maps = list(maps_of(40, seed=1))
    risk = PixelRisk("pixel_false_alarm")
    for i, (one, mask) in enumerate(maps):
        risk.update(one, mask if i % 2 else None)
    grid = grid_of(maps)
    kept = [~mask if i % 2 else np.ones_like(mask) for i, (_, mask) in enumerate(maps)]
    losses = [
        (np.float32(one)[keep][:, None] >= grid).mean(axis=0)
        for (one, _), keep in zip(maps, kept, strict=True)
    ]
    expected = control_risk(losses, grid, alpha, rising=False)
    found = risk.choose(alpha)
    assert found.value == expected.value
    assert found.risk == pytest.approx(expected.risk)


def test_the_promise_holds_on_new_images():
    lost = []
    maps = list(maps_of(300, seed=2))
    rng = np.random.default_rng(3)
    for _ in range(40):
        order = rng.permutation(300)
        risk = PixelRisk()
        for i in order[:40]:
            risk.update(*maps[i])
        limit = risk.choose(0.2).value
        lost.append(np.mean([(np.float32(maps[i][0])[maps[i][1]] < limit).mean()
                             for i in order[40:]]))  # fmt: skip
    assert np.mean(lost) <= 0.2 + 3 * np.std(lost) / np.sqrt(40)
    assert np.mean(lost) > 0.15


def test_memory_stays_flat():
    risk = PixelRisk()
    tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    for one, mask in maps_of(83, edge=448):
        risk.update(one.astype(np.float32), mask)
        kept = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    assert kept < 83 * 448 * 448 * 4 / 8  # all maps would take eight times as much
    assert risk.choose(0.1).n == 83


def test_candidates_are_ordered_as_numbers_are():
    values = np.float32([-3e38, -2.0, -1.0, -1e-30, -1e-45, -0.0, 0.0, 1e-45, 0.1, 1.0, 2.0, 3e38])
    keys = _keys(values).astype(np.int64)
    assert (np.diff(keys) >= 0).all()
    assert keys[5] == keys[6]
    starts = _values((keys >> SHIFT).astype(np.uint32))
    assert (starts <= values).all()
    large = np.abs(values) > 1e-30
    assert ((values - starts)[large] <= np.abs(values)[large] * 2.0**-10).all()


def test_an_impossible_rate_marks_everything_or_nothing():
    miss, alarm = PixelRisk(), PixelRisk("pixel_false_alarm")
    for level in range(9):  # nine images promise 0.1 only without any loss
        one = np.full((4, 4), 0.5 + level, np.float32)
        miss.update(one, np.ones((4, 4), bool))
        alarm.update(one)
    assert 0.499 < miss.choose(0.1).value <= 0.5
    assert 8.5 < alarm.choose(0.1).value < 8.51 or alarm.choose(0.1).value == np.inf
    with pytest.raises(InputError, match=r"alpha: 0.05 cannot be promised from 9 .* at least 19"):
        miss.choose(0.05)


@pytest.mark.parametrize(
    ("loss", "one", "mask", "message"),
    [
        ("pixel_miss", np.ones((2, 2)), None, "mask: expected the pixels of the defect, got None"),
        ("pixel_miss", np.ones((2, 2)), np.zeros((2, 2), bool), "mask: expected at least one def"),
        ("pixel_false_alarm", np.ones((2, 2)), np.ones((2, 2), bool), ".* at least one normal"),
        ("pixel_miss", np.ones((2, 2)), np.ones((2, 3), bool), r"mask: expected bool \(2, 2\)"),
        ("pixel_miss", np.ones((2, 2)), np.ones((2, 2)), "mask: expected bool .* got float64"),
        ("pixel_false_alarm", np.full((2, 2), np.nan), None, "anomaly_map: expected finite"),
        ("pixel_false_alarm", np.ones(3), None, r"anomaly_map: expected .* \(H, W\), got \(3,\)"),
        ("pixel_false_alarm", np.ones((2, 2), int), None, "anomaly_map: expected floating-point"),
    ],
)
def test_bad_maps_are_named(loss, one, mask, message):
    with pytest.raises(InputError, match=f"^{message}"):
        PixelRisk(loss).update(one, mask)


def test_an_unknown_loss_and_no_image():
    with pytest.raises(InputError, match="loss: expected pixel_miss or pixel_false_alarm, got 'x'"):
        PixelRisk("x")
    with pytest.raises(InputError, match="losses: expected those of at least one held-out image"):
        PixelRisk().choose(0.1)
