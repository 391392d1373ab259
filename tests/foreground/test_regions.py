import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustad.foreground.regions import cleaned, otsu


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60))
def test_otsu_parts_best(values):
    values = np.asarray(values)
    level = otsu(values)

    def within(cut):
        bins = np.minimum((values * 256).astype(int), 255) / 256  # what Otsu's histogram sees
        parts = [part for part in (bins[bins < cut], bins[bins >= cut]) if len(part)]
        return sum(((part - part.mean()) ** 2).sum() for part in parts)

    best = min(within(k / 256) for k in range(257))
    cut = np.ceil(level * 256) / 256
    assert within(cut) <= best + 1e-9 or within(np.floor(level * 256) / 256) <= best + 1e-9


def test_otsu_between_two_clusters_and_of_a_constant():
    assert otsu(np.array([0.2] * 90 + [0.8] * 10)) == pytest.approx(0.5, abs=0.01)
    assert otsu(np.full((4, 4), 0.3)) <= 0.3


def flood(mask):
    """Components by flooding, the largest first."""
    left, parts = {tuple(p) for p in np.argwhere(mask)}, []
    while left:
        todo, part = [left.pop()], set()
        while todo:
            y, x = todo.pop()
            part.add((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            todo += near
        parts.append(part)
    return sorted(parts, key=len, reverse=True)


@pytest.mark.parametrize("seed", range(8))
def test_largest_component_is_that_of_a_flood(seed):
    mask = np.random.default_rng(seed).random((20, 24)) < 0.3
    parts = flood(mask)
    out = cleaned(mask, largest=True, fill=False)
    found = {tuple(p) for p in np.argwhere(out)}
    assert len(found) == len(parts[0])
    assert found in [part for part in parts if len(part) == len(parts[0])]


def test_holes_are_filled_bays_are_not():
    ring = np.zeros((9, 9), bool)
    ring[1:8, 1:8] = True
    ring[3:5, 3:5] = False
    bay = ring.copy()
    bay[3, :4] = False
    full = cleaned(ring, largest=True, fill=True)
    assert full.sum() == 49
    assert cleaned(ring, largest=True, fill=False).sum() == 45
    assert not cleaned(bay, largest=True, fill=True)[3, 2]


def test_an_empty_mask_stays_empty():
    assert not cleaned(np.zeros((5, 5), bool), largest=True, fill=True).any()
