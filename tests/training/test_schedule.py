import copy

import pytest
import torch

from robustad.training.config import AttackConfig, OptimiserConfig
from robustad.training.schedule import average, learning_rate


def test_the_cosine_is_torch_s():
    config = OptimiserConfig(lr=8e-4, final_lr=0.0125, epochs=20)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=8e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20, eta_min=8e-4 * 0.0125)
    for epoch in range(20):
        assert learning_rate(config, epoch) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        scheduler.step()


def test_it_warms_up_linearly():
    config = OptimiserConfig(lr=1.0, final_lr=1.0, epochs=10, warmup=4)
    assert [learning_rate(config, e) for e in (0, 1, 2, 4, 9)] == [0, 0.25, 0.5, 1, 1]


def test_averages_converge_and_copy_buffers(toy):
    averaged = copy.deepcopy(toy)
    toy.register_buffer("count", torch.ones(1))
    averaged.register_buffer("count", torch.zeros(1))
    with torch.no_grad():
        for parameter in toy.parameters():
            parameter.fill_(1.0)
    for step in range(500):
        average(averaged, toy, 0.9, step)
    for parameter in averaged.parameters():
        torch.testing.assert_close(parameter.data, torch.ones_like(parameter))
    assert averaged.count.item() == 1


def test_the_first_average_is_nearly_the_weights(toy):
    averaged = copy.deepcopy(toy)
    before = averaged.head.weight.clone()
    with torch.no_grad():
        toy.head.weight.add_(1.0)
    average(averaged, toy, 0.999, 0)
    torch.testing.assert_close(averaged.head.weight.data, before + 0.9)


def test_attacks_begin_late_and_grow():
    attack = AttackConfig(clean_epochs=2, ramp_epochs=4)
    assert [attack.strength(e) for e in (0, 1.9, 2, 3, 6, 9)] == [0, 0, 0, 0.25, 1, 1]
    assert AttackConfig().strength(0) == 1
    assert AttackConfig(steps=0).strength(5) == 0
