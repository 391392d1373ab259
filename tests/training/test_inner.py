import pytest
import torch

from robustad.attacks.pgd import pgd
from robustad.attacks.problem import Problem
from robustad.training.config import AttackConfig
from robustad.training.inner import adversarial, objective
from robustad.training.loss import patch_loss


@pytest.fixture
def batch(toy):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(4, 3, 16, 16, generator=generator)
    target = torch.zeros(4, 16, dtype=torch.bool)
    target[2:, :3] = True
    return x, target


def value_of(toy, config, x, target, top_k=3):
    even = torch.tensor([True, False, True, False])
    with torch.no_grad():
        return objective(config.objective, toy(x)[0], target, top_k, even)


@pytest.mark.parametrize("name", ["flip", "bce", "image", "mixed"])
@pytest.mark.parametrize("start", ["zero", "random"])
def test_raises_its_objective_within_the_ball(toy, batch, name, start):
    x, target = batch
    config = AttackConfig(objective=name, steps=5, start=start)
    toy.train()
    found = adversarial(toy, x, target, config, top_k=3, seeds=[0, 1, 2, 3])
    assert (found - x).abs().max() <= config.eps + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    assert (value_of(toy, config, found, target) > value_of(toy, config, x, target)).all()
    assert toy.training  # comes back as it was
    assert all(p.requires_grad and p.grad is None for p in toy.parameters())


@pytest.mark.parametrize("keep", ["best", "last"])
def test_from_the_image_it_is_the_suite_s_pgd(toy, batch, keep):
    """Step for step the attack of `robustad.attacks`."""
    x, target = batch
    config = AttackConfig(objective="bce", steps=6, start="zero", keep=keep)
    found = adversarial(toy, x, target, config, top_k=3, seeds=[0] * 4)

    class Scorer:
        def patch_scores(self, images):
            return toy(images)[0]

        def aggregate(self, patch_scores):
            return patch_scores.mean(dim=1)

    problem = Problem.of(
        Scorer(),
        x,
        label=target.any(dim=1).long(),
        mask=target,
        eps=config.eps,
        objective=lambda scores: patch_loss(scores.patch, scores.mask, "balanced"),
    )
    expected = pgd(problem, steps=6, keep=keep)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_the_best_iterate_is_kept(toy, batch):
    x, target = batch
    steps = {"steps": 4, "step_size": 0.5, "objective": "image", "start": "zero"}
    last = adversarial(toy, x, target, AttackConfig(keep="last", **steps), top_k=3, seeds=[0] * 4)
    config = AttackConfig(keep="best", **steps)
    best = adversarial(toy, x, target, config, top_k=3, seeds=[0] * 4)
    high, low = (value_of(toy, config, one, target) for one in (best, last))
    assert (high >= low).all()


def test_a_random_start_is_the_image_s_own(toy, batch):
    x, target = batch
    config = AttackConfig(steps=1, start="random", keep="last")
    whole = adversarial(toy, x, target, config, top_k=3, seeds=[5, 6, 7, 8])
    alone = adversarial(toy, x[2:3], target[2:3], config, top_k=3, seeds=[7])
    torch.testing.assert_close(whole[2:3], alone, rtol=0, atol=1e-6)
    other = adversarial(toy, x[2:3], target[2:3], config, top_k=3, seeds=[8])
    assert not torch.equal(alone, other)


def test_a_warm_start_goes_on_from_the_last_perturbation(toy, batch):
    x, target = batch
    config = AttackConfig(steps=1, start="warm", keep="last", objective="bce")
    before = adversarial(
        toy, x, target, AttackConfig(steps=4, objective="bce"), top_k=3, seeds=[0] * 4
    )
    warm = adversarial(toy, x, target, config, top_k=3, seeds=[0] * 4, start=before)
    cold = adversarial(
        toy,
        x,
        target,
        AttackConfig(steps=1, start="zero", keep="last", objective="bce"),
        top_k=3,
        seeds=[0] * 4,
    )
    assert (value_of(toy, config, warm, target) > value_of(toy, config, cold, target) - 1e-4).all()


def test_dropout_is_at_work_only_in_train_mode(make_toy, batch):
    x, target = batch
    torch.manual_seed(0)
    toy = make_toy(dropout=0.5)
    seen = []
    toy.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    for mode in ("eval", "train"):
        config = AttackConfig(steps=1, keep="last", mode=mode)
        adversarial(toy, x, target, config, top_k=3, seeds=[0] * 4)
    assert seen == [False, True]


def test_a_network_without_gradient_leaves_the_images_alone(toy, batch):
    x, target = batch
    with torch.no_grad():
        toy.embed.weight.zero_()
    config = AttackConfig(steps=3, start="zero")
    assert torch.equal(adversarial(toy, x, target, config, top_k=3, seeds=[0] * 4), x)


def test_bfloat16_attacks_stay_in_the_ball(toy, batch):
    x, target = batch
    config = AttackConfig(steps=3)
    found = adversarial(toy, x, target, config, top_k=3, seeds=[0] * 4, dtype=torch.bfloat16)
    assert found.dtype == torch.float32
    assert (found - x).abs().max() <= config.eps + 1e-6


def test_mixed_takes_flip_and_image_in_turns():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, generator=generator)
    target = torch.rand(4, 9, generator=generator) < 0.4
    even = torch.tensor([True, False, True, False])
    mixed, flip, image = (
        objective(name, logits, target, 2, even) for name in ("mixed", "flip", "image")
    )
    torch.testing.assert_close(mixed, torch.where(even, flip, image))
