import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import robustad.export.anomaly_dino as module
from robustad.errors import InputError
from robustad.export.anomaly_dino import ChunkedNeighbours
from robustad.export.graph import TopMean, exact_ratio
from robustad.ops import cosine_nn, pack_bank, resolve_k, topk_mean


@pytest.mark.parametrize("k", [1, 3, 9, 40])
@pytest.mark.parametrize("chunk", [7, 16, 40, 4096])
def test_chunks_give_the_neighbours_of_the_whole_bank(monkeypatch, k, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(k)
    bank = torch.randn(40, 12, generator=generator)
    bank[3] = bank[30]  # duplicates in different chunks
    features = torch.randn(2, 5, 12, generator=generator)
    features[0, 0], features[0, 1], features[0, 2] = bank[7] * 3, -bank[8], 0.0
    packed = pack_bank(bank)
    expected = cosine_nn(features.flatten(0, 1), packed, k)[0].reshape(2, 5, k)
    found = ChunkedNeighbours(packed.unit, k)(features)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert found.min() >= 0
    assert found.max() <= 2


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.integers(1, 1000).map(lambda n: n / 1000),
        st.integers(1, 60).map(lambda n: 1 / n),
        st.sampled_from([0.29, 0.57, 0.07, 1.0, 1e-6]),
    )
)
def test_ratio_selects_as_many_as_the_fraction(fraction):
    ratio = exact_ratio(fraction)
    for n in (*range(1, 400), 1024, 1369, 5476, 99999):
        assert max(1, n * ratio.numerator // ratio.denominator) == resolve_k(fraction, n)


def test_fractions_that_have_no_ratio_or_are_none():
    with pytest.raises(InputError, match="cannot be exported with dynamic sizes"):
        exact_ratio(0.4999999995)
    with pytest.raises(InputError, match=r"fraction in \(0, 1\]"):
        exact_ratio(1.5)


@pytest.mark.parametrize("top", [0.01, 0.1, 0.29, 1.0, 1, 4])
@pytest.mark.parametrize("count", [4, 7, 100, 101])
def test_top_mean_of_a_free_and_a_fixed_count(top, count):
    scores = torch.from_numpy(np.random.default_rng(count).random((3, count), np.float32))
    expected = topk_mean(scores, top)
    mean = TopMean(top)
    torch.testing.assert_close(mean(scores), expected)
    torch.testing.assert_close(mean._of_any(scores, count), expected)
