"""One step of adversarial training, against a plain restatement of the published loop.

The published loop attacks the normal images and the pseudo-anomalies one after the other, with
dropout at work and the gradients of all parameters filled in; attention is written out, so that
its maps can be had; the four training passes run one after the other. The restatement below does
the same work in plain torch. It gets its pseudo-anomalies for nothing (they are made before the
clock starts): the augmenter has a benchmark of its own, bench_pseudo_anomalies.py.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.networks import NetworkConfig, PatchNetwork, create, set_fused_attention
from robustad.pseudo import PseudoAnomalies
from robustad.training import preset
from robustad.training.distributed import Processes
from robustad.training.step import Step

sys.path.insert(0, str(Path(__file__).resolve().parent))

EPS = 8 / 255
STEPS = 3
# Name, network, batch. FLOPs of a forward pass of one image, as fvcore counts products and sums.
SMALL = NetworkConfig(
    body="vit_small_patch16_224", image_size=64, depth=2, embed_dim=64, num_heads=2,
    discriminator_hidden=64,
)  # fmt: skip
SIZES = {"tiny": (SMALL, 4), "vit_small_patch14 224": (NetworkConfig(), 16)}
CASES = ["tiny", pytest.param("vit_small_patch14 224", marks=pytest.mark.slow)]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]


def plain_attack(network: PatchNetwork, x: Tensor, mask: Tensor) -> Tensor:
    inside = mask.float()
    counts = inside.sum(dim=1) + 1e-8, (1 - inside).sum(dim=1) + 1e-8
    adv = x.clone()
    for _ in range(STEPS):
        adv.requires_grad_(True)
        logits, _ = network(adv)
        raised = ((1 - inside) * logits).sum(dim=1) / counts[1]
        lowered = (inside * logits).sum(dim=1) / counts[0]
        (raised.sum() - lowered.sum()).backward()  # gradients of the parameters too
        assert adv.grad is not None
        moved = adv.detach() + 2.5 * EPS / STEPS * adv.grad.sign()
        adv = torch.clamp(x + torch.clamp(moved - x, -EPS, EPS), 0, 1)
    return adv


def plain_step(
    network: PatchNetwork, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, Tensor, Tensor]
) -> float:
    normal, anomalous, mask = batch
    none = torch.zeros_like(mask)
    last = [name for name in network.attention_layers if name != "discriminator"][-1]
    total: Any = 0
    for images, target in ((normal, none), (anomalous, mask)):
        for x in (images, plain_attack(network, images, target)):
            logits, maps = network(x, attention=[last])
            loss = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
            attention = maps[0].map()
            uniform = torch.full_like(attention, 1 / attention.shape[-1])
            total = total + loss.sum(dim=1).mean()
            total = total + 0.01 * F.kl_div((attention + 1e-8).log(), uniform)
    optimiser.zero_grad()
    total.backward()
    optimiser.step()
    return total.item()


def attacked(network: PatchNetwork, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    none = torch.zeros_like(batch[2])
    return torch.cat(
        [plain_attack(network, batch[0], none), plain_attack(network, batch[1], batch[2])]
    )


class Case:
    def __init__(self, size: str, device: str) -> None:
        config, count = SIZES[size]
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.network = create(config, "random").to(device)
        for part in self.network.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0  # so that both can be compared
        generator = torch.Generator().manual_seed(1)
        edge = config.image_size
        self.normal = torch.rand(count, 3, edge, edge, generator=generator).to(device)
        self.pseudo = PseudoAnomalies(image_size=edge)
        made = self.pseudo(self.normal, None, seeds=[*range(count)])
        from robustad.training.loss import patch_targets

        mask = patch_targets(made.mask, self.network.grid, 0.0)
        self.batch = self.normal, made.images, mask
        self.count = count

    def plain(self) -> tuple[PatchNetwork, torch.optim.Optimizer]:
        network = copy.deepcopy(self.network)
        set_fused_attention(network, False)
        return network.train(), torch.optim.AdamW(network.parameters(), lr=8e-4)

    def ours(self) -> Step:
        network = copy.deepcopy(self.network)
        optimiser = torch.optim.AdamW(network.parameters(), lr=8e-4)
        config = preset(
            "official",
            {
                "network": network.config.model_dump(),
                "attack.steps": STEPS,
                "attack.mode": "eval",
                "attack_precision": "auto",
                "regulariser.layers": {"last": 0.01},
            },
        )
        alone = Processes(0, 1, self.device)
        return Step(network, optimiser, self.pseudo, config, top_k=3, processes=alone)

    def step(self, ours: Step) -> float:
        ones = torch.ones(self.count, *self.normal.shape[2:], dtype=torch.bool)
        batch = ours.attacked(
            self.normal,
            ones.to(self.device),
            pseudo_seeds=range(self.count),
            start_seeds=range(2 * self.count),
        )
        figures = ours.update(batch)
        return figures["loss"] + figures["regulariser"]


def counted(case: Case) -> float:
    """Floating-point operations of one step: products and sums of matrices and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    network = copy.deepcopy(case.network).eval()

    def once() -> float:
        with FlopCounterMode(display=False) as counter:
            network(x)[0].sum().backward()
        return float(counter.get_total_flops())

    x = case.normal[:1].clone()
    every = once()
    network.requires_grad_(False)
    x.requires_grad_(True)
    return 2 * case.count * STEPS * once() + 4 * case.count * every


@pytest.mark.parametrize("impl", ["robustad", "published loop"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", CASES)
def test_training_step(benchmark: Any, size: str, device: str, impl: str) -> None:
    case = Case(size, device)
    benchmark.group = f"training step, {size}, batch {case.count}, {STEPS} attack steps, {device}"
    benchmark.extra_info["items"] = case.count
    benchmark.extra_info["device"] = device
    benchmark.extra_info["flops"] = counted(case)
    ours, (network, optimiser) = case.ours(), case.plain()
    if size == "tiny":  # both do the same work
        batch = ours.attacked(
            case.normal,
            torch.ones(case.count, *case.normal.shape[2:], dtype=torch.bool),
            pseudo_seeds=range(case.count),
            start_seeds=range(2 * case.count),
        )
        expected = attacked(network, case.batch)
        same = ((batch.x[2 * case.count :] - expected).abs() < 1e-6).float().mean()
        # rounding turns the sign of gradients near zero, at a random network of many
        assert same > 0.8
        assert case.step(ours) == pytest.approx(
            plain_step(network, optimiser, case.batch), rel=0.02
        )
    if impl == "robustad":
        benchmark.pedantic(case.step, (ours,), rounds=2, warmup_rounds=int(size == "tiny"))
    else:
        arguments = (network, optimiser, case.batch)
        benchmark.pedantic(plain_step, arguments, rounds=2, warmup_rounds=int(size == "tiny"))
