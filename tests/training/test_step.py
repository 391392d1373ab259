import functools

import pytest
import torch

from robustad.pseudo import PseudoAnomalies
from robustad.training import preset, train
from robustad.training.distributed import Processes
from robustad.training.step import Step

ALONE = Processes(0, 1, torch.device("cpu"))


def made(toy, **overrides):
    changes = {"attack.steps": 2, "loss.least_contrast": 0, **overrides}
    config = preset("fast", {name.replace("__", "."): v for name, v in changes.items()})
    optimiser = torch.optim.AdamW(toy.parameters(), lr=0.1)
    pseudo = PseudoAnomalies(image_size=16)
    return Step(toy, optimiser, pseudo, config, top_k=2, processes=ALONE)


def batch_of(step, count=2):
    normal = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    foreground = torch.ones(count, 16, 16, dtype=torch.bool)
    return step.attacked(
        normal, foreground, pseudo_seeds=range(count), start_seeds=range(2 * count)
    )


def weights(toy):
    return {name: tensor.clone() for name, tensor in toy.state_dict().items()}


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing(toy, clip, bad):
    """The loss itself is finite: without a look at the gradient, all weights would be lost."""
    step = made(toy, optimiser__clip=clip)
    before = weights(toy)
    toy.head.weight.register_hook(lambda gradient: gradient * bad)
    figures = step.update(batch_of(step))
    assert torch.isfinite(torch.tensor(figures["loss"]))
    assert not torch.isfinite(torch.tensor(figures["gradient_norm"]))
    for name, tensor in toy.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_the_norm_of_the_gradient_is_that_before_clipping(toy, clip):
    step = made(toy, optimiser__clip=clip)
    batch = batch_of(step)
    squares = []
    for parameter in toy.parameters():
        parameter.register_hook(lambda gradient: squares.append(gradient.square().sum()))
    found = step.update(batch)["gradient_norm"]
    assert found == pytest.approx(float(sum(squares)) ** 0.5, rel=1e-5)
    left = torch.cat([parameter.grad.flatten() for parameter in toy.parameters()]).norm()
    assert float(left) == pytest.approx(found if clip is None else clip, rel=1e-3)


def test_a_compiled_network_is_what_is_attacked(toy, monkeypatch):
    """Ten of eleven passes are the attacks': compiling only the others would be for show."""
    calls = []

    class Compiled(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x, attention=()):
            calls.append((x.shape[0], self.inner.training))
            return self.inner(x, attention)

    monkeypatch.setattr(torch, "compile", Compiled)
    step = made(toy, compile=True, attack__keep="last")
    step.update(batch_of(step))
    assert calls == [(4, False), (4, False), (8, True)]


@pytest.mark.slow
def test_compiled_steps_are_the_same(images, tiny, tmp_path, monkeypatch):
    """Two graphs, one for attacks and one for training passes; only their code is left out."""
    tiny |= {"optimiser.epochs": 2, "attack.clean_epochs": 0, "attack.ramp_epochs": 0}
    expected = train(images, "fast", out=tmp_path / "plain", overrides=tiny)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = train(images, "fast", out=tmp_path / "compiled", overrides=tiny | {"compile": True})
    assert not torch._dynamo.utils.counters["graph_break"]
    assert found.network.state_dict().keys() == expected.network.state_dict().keys()
    for name, tensor in expected.network.state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[name], tensor, rtol=0, atol=1e-4)
