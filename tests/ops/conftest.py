import pytest
import torch

from robustad import _C
from robustad.ops._attention_degree import PATH_VARIABLE


class Attention:
    """Inputs of the attention operators, and how far float32 may be off."""

    @staticmethod
    def heads(shape, count=3, dtype=torch.float32, device="cpu", spread=1.3, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return [
            (spread * torch.randn(shape, generator=generator)).to(device, dtype)
            for _ in range(count)
        ]

    @staticmethod
    def score_error(q, k, scale, unit=2.0**-24):
        """Most that a float32 score is off: d + 1 roundings of a sum of at most |q| |k|."""
        lengths = q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max()
        return float((q.shape[-1] + 1) * unit * scale * lengths)

    @classmethod
    def row_error(cls, q, k, scale, unit=2.0**-24):
        """Most that an entry of S is off, relative to it."""
        # the score itself, its distance from the maximum, exp and the sum of a row
        n = k.shape[2]
        return 2 * cls.score_error(q, k, scale, unit) + (n / 8 + 8) * 2.0**-24

    @classmethod
    def degree_error(cls, q, k, tau, scale):
        """sum_j |dt/dS| S_j e <= e / (4 tau), and the sum of n terms of at most 1."""
        n = k.shape[2]
        return cls.row_error(q, k, scale) / (4 * tau) + n * (n / 8 + 4) * 2.0**-24


@pytest.fixture(autouse=True)
def threads(all_threads):
    """Operators share their work between threads: they are tested with several."""


@pytest.fixture(scope="session")
def attention():
    return Attention


@pytest.fixture(params=["portable", "avx2", "avx512"])
def attention_path(request, monkeypatch):
    """Every instruction set this machine has; the others skip with a reason."""
    if _C.attention_path(request.param) is None:
        pytest.skip(f"no {request.param} on this CPU")
    monkeypatch.setenv(PATH_VARIABLE, request.param)


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param
