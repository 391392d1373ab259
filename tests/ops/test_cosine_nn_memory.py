import re
from pathlib import Path

import pytest
import torch

from robustad.ops import cosine_nn, pack_bank

PROCESS = Path("/proc/self")


def memory(field):
    return 1024 * int(re.search(rf"{field}:\s*(\d+)", (PROCESS / "status").read_text())[1])


@pytest.mark.skipif(not (PROCESS / "clear_refs").exists(), reason="needs Linux")
def test_many_queries_of_a_small_bank_are_not_copied_all_at_once():
    queries, packed = torch.ones(300_000, 64), pack_bank(torch.eye(16, 64))
    cosine_nn(queries[:100], packed)
    (PROCESS / "clear_refs").write_text("5")
    before = memory("VmRSS")
    distances, _ = cosine_nn(queries, packed)
    assert memory("VmHWM") - before < 60e6  # a copy of the queries would be 77 MB
    assert (distances - (1 - 1 / 8)).abs().max() <= 2e-6
