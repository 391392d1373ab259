import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import robustad.deploy.seen as module
from robustad.deploy.seen import SeenKeys, image_key

keys = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(st.lists(keys), st.lists(keys), st.integers(1, 5))
def test_it_is_a_set(added, asked, merge_at):
    before, module.MERGE_AT = module.MERGE_AT, merge_at
    try:
        seen = SeenKeys()
        for key in added:
            seen.add(key)
    finally:
        module.MERGE_AT = before
    assert len(seen) == len(set(added))
    assert all(key in seen for key in added)
    assert all((key in seen) == (key in added) for key in asked)


def test_keys_of_one_upper_half_are_told_apart(monkeypatch):
    monkeypatch.setattr(module, "MERGE_AT", 4)
    seen, half = SeenKeys(), "f" * 16
    for i in range(9):
        seen.add(half + f"{2 * i:016x}")
    found = [half + f"{i:016x}" in seen for i in range(19)]
    assert found == [i % 2 == 0 and i < 18 for i in range(19)]


def test_a_key_is_of_name_size_and_time():
    keys = {image_key("a.png", 1, 2), image_key("a.png", 12, 2), image_key("a.png", 1, 22)}
    keys |= {image_key("b.png", 1, 2), image_key("\udcff.png", 1, 2)}
    assert len(keys) == 5
    assert {len(key) for key in keys} == {32}
    assert image_key("a.png", 1, 2) in keys


def test_memory_a_key():
    seen = SeenKeys()
    rng = np.random.default_rng(0)
    for key in rng.bytes(16 * 3 * module.MERGE_AT).hex(" ", 16).split():
        seen.add(key)
    assert len(seen) == 3 * module.MERGE_AT
    assert seen._sorted.nbytes == 16 * len(seen)
