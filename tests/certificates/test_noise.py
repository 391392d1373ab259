"""Noise belongs to an image's content: not to the batch, its size or how many draws are asked."""

import pytest
import torch

from robustad.certificates import content_seed
from robustad.certificates.noise import BLOCK, cleaned, noise_of, noisy_batches, plan
from robustad.errors import InputError


def copies(x, draws, batch_size=64, sigma=0.1, seeds=None):
    seeds = [content_seed(one) for one in x] if seeds is None else seeds
    made = noisy_batches(x, sigma=sigma, draws=draws, seeds=seeds, batch_size=batch_size)
    found = [(runs, batch.clone()) for runs, batch in made]
    assert all(len(batch) <= max(batch_size, 1) for _, batch in found)
    assert all(sum(run.count for run in runs) == len(batch) for runs, batch in found)
    return torch.cat([batch for _, batch in found])


@pytest.mark.parametrize("batch_size", [1, 5, 16, 17, 40, 1000])
def test_batch_size_changes_nothing(grey, batch_size):
    x = grey(3)
    expected = copies(x, range(50), 64)
    assert torch.equal(copies(x, range(50), batch_size), expected)


def test_draws_do_not_depend_on_how_many_or_with_whom(grey):
    x = grey(2)
    whole = copies(x, range(70)).reshape(2, 70, 3, 8, 8)
    assert torch.equal(copies(x[1:], range(70)), whole[1])
    assert torch.equal(copies(x[:1], range(33, 61)), whole[0, 33:61])
    assert torch.equal(copies(x[:1], range(5)), whole[0, :5])


def test_draws_are_standard_normal_and_all_different(grey):
    x = grey(1, size=16)
    noise = (copies(x, range(400), sigma=0.1) - x) / 0.1
    flat = noise.reshape(400, -1).double()
    assert abs(float(flat.mean())) < 5 / flat.numel() ** 0.5
    assert abs(float(flat.std()) - 1) < 0.01
    gram = flat @ flat.T / flat.shape[1]
    gram.fill_diagonal_(0)
    assert float(gram.abs().max()) < 6 / flat.shape[1] ** 0.5  # no draw twice


def test_noise_of_runs_is_what_copies_were_made_with(grey):
    x = grey(2)
    seeds = [content_seed(one) for one in x]
    for runs in plan(2, range(3, 40), 32):
        places = [run.image for run in runs for _ in range(run.count)]
        rebuilt = torch.add(x[places], noise_of(runs, x, seeds), alpha=0.1)
        parts = [
            copies(x[run.image : run.image + 1], range(run.first, run.first + run.count))
            for run in runs
        ]
        assert torch.equal(rebuilt, torch.cat(parts))
    assert {run.count for runs in plan(1, range(64), 32) for run in runs} == {BLOCK}


def test_the_seed_is_of_the_content(grey):
    x = grey(1)[0]
    assert content_seed(x) == content_seed(x.clone().requires_grad_(True))
    changed = x.clone()
    changed[0, 0, 0] += 1e-6
    seeds = {content_seed(x), content_seed(changed), content_seed(x, 1)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_threads_change_nothing(grey):
    x, threads = grey(2), torch.get_num_threads()
    expected = copies(x, range(100), 64)
    try:
        torch.set_num_threads(3)
        assert torch.equal(copies(x, range(100), 64), expected)
    finally:
        torch.set_num_threads(threads)


def test_cleaning_clips_after_the_denoiser():
    wild = torch.tensor([-0.5, 0.5, 1.5]).reshape(1, 3, 1, 1)
    assert cleaned(wild.clone(), None).flatten().tolist() == [0.0, 0.5, 1.0]
    seen = []
    made = cleaned(wild, lambda x: seen.append(x.clone()) or 2 * x)
    assert seen[0].flatten().tolist() == [-0.5, 0.5, 1.5]
    assert made.flatten().tolist() == [0.0, 1.0, 1.0]
    for bad, got in ((lambda x: x[:, :1], r"\(1, 1, 1, 1\)"), (lambda x: None, "NoneType")):
        with pytest.raises(
            InputError, match=rf"denoiser: expected images \(1, 3, 1, 1\), got {got}"
        ):
            cleaned(wild, bad)


def test_bad_options(grey):
    x = grey(1)
    with pytest.raises(InputError, match="sigma: expected a standard deviation > 0"):
        copies(x, range(3), sigma=0.0)
    with pytest.raises(InputError, match="batch_size: expected >= 1, got 0"):
        copies(x, range(3), batch_size=0)
