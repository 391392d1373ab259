"""What the machine itself can do: the roofs that the other figures are fractions of.

Matrix products and a copy by torch, in the same run as everything else.
"""

from typing import Any

import pytest
import torch

SIZE = 1536
COPIED = 32 * 2**20  # float32 entries: far more than any cache holds


@pytest.mark.parametrize("impl", ["matrix product fp32"])
def test_matrix_product(benchmark: Any, impl: str) -> None:
    benchmark.group = "machine"
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
    product = benchmark.pedantic(torch.mm, (a, b), rounds=9, warmup_rounds=2)
    column = a.double() @ b[:, 0].double()
    assert (product[:, 0].double() - column).abs().max() <= 1e-4 * column.abs().max()
    benchmark.extra_info.update(flops=2 * SIZE**3, device="cpu", dtype="float32")


@pytest.mark.parametrize("impl", ["copy"])
def test_copy(benchmark: Any, impl: str) -> None:
    benchmark.group = "machine"
    source = torch.arange(COPIED, dtype=torch.float32)
    target = torch.empty_like(source)
    benchmark.pedantic(target.copy_, (source,), rounds=9, warmup_rounds=2)
    assert torch.equal(target, source)
    benchmark.extra_info.update(bytes=8 * COPIED, device="cpu", dtype="float32")
