import pytest
import torch

from robustad.training import train
from robustad.training.config import AttackConfig
from robustad.training.distributed import Processes
from robustad.training.inner import adversarial
from robustad.training.warm import WarmStarts

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)


class Two(Processes):
    """The first of two processes; the other one found the negative of everything."""

    def gathered(self, value):
        return [value, -value]


def test_what_is_kept_is_what_is_taken():
    warm = WarmStarts(4, (3, 2, 2))
    assert warm.take([0, 3], CPU).isnan().all()
    delta = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).half().float()
    warm.keep([2, 0], delta, ALONE)
    torch.testing.assert_close(warm.take([2, 0], CPU), delta, rtol=0, atol=0)
    torch.testing.assert_close(warm.take([0], CPU), delta[[1, 3]], rtol=0, atol=0)
    assert warm.take([1, 3], CPU).isnan().all()


def test_of_an_image_twice_in_a_step_the_later_one_stays():
    warm = WarmStarts(2, (1, 1, 1))
    warm.keep([1, 1], torch.arange(4.0).reshape(4, 1, 1, 1), ALONE)
    assert warm.take([1], CPU).flatten().tolist() == [1.0, 3.0]


def test_each_process_learns_what_the_others_found():
    warm = WarmStarts(4, (1, 1, 1))
    warm.keep([0, 1, 2, 3], torch.tensor([1.0, 2, 3, 4]).reshape(4, 1, 1, 1), Two(0, 2, CPU))
    found = warm.take([0, 2, 1, 3], CPU).flatten()
    assert found.tolist() == [1, 2, -1, -2, 3, 4, -3, -4]


def test_images_that_were_never_attacked_start_at_random(toy):
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    target = torch.zeros(3, 16, dtype=torch.bool)
    seeds, options = [4, 5, 6], {"steps": 1, "keep": "last"}
    start = x.clone()  # ended where they began
    start[1] = torch.nan
    warm, random, zero = (
        adversarial(
            toy, x, target, AttackConfig(start=name, **options), top_k=2, seeds=seeds, start=start
        )
        for name in ("warm", "random", "zero")
    )
    torch.testing.assert_close(warm[1], random[1], rtol=0, atol=0)
    torch.testing.assert_close(warm[[0, 2]], zero[[0, 2]], rtol=0, atol=0)


def test_after_clean_epochs_the_first_attack_starts_at_random(images, tiny, tmp_path, monkeypatch):
    from robustad.training import step

    starts = []
    real = step.adversarial

    def seen(*args, start=None, **options):
        starts.append(bool(start.isnan().any()))
        return real(*args, start=start, **options)

    monkeypatch.setattr(step, "adversarial", seen)
    tiny |= {"attack.start": "warm", "attack.clean_epochs": 1, "attack.ramp_epochs": 0}
    train(images, "fast", out=tmp_path, overrides=tiny | {"validation.every": 0})
    assert starts == [True, True, False, False]  # two steps an epoch


@pytest.mark.parametrize("start", [True, False])
def test_nothing_else_uses_a_warm_start(toy, start):
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    target = torch.zeros(1, 16, dtype=torch.bool)
    config = AttackConfig(start="zero", steps=1, keep="last")
    given = torch.full_like(x, 0.5) if start else None
    found = adversarial(toy, x, target, config, top_k=2, seeds=[0], start=given)
    assert (found - x).abs().max() <= config.eps + 1e-6
