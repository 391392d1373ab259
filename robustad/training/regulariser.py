"""Attention that spreads: the degree regulariser, and the figures that show whether it works."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustad._names import suggestion
from robustad.errors import InputError
from robustad.networks import Attention, PatchNetwork
from robustad.ops import AttentionStatistics, attention_degree, attention_statistics
from robustad.training.config import RegulariserConfig


class Spread(NamedTuple):
    """How attention spreads, averaged over images, heads and rows.

    Attributes
    ----------
    degree : float in [0, N]
        Entries of at least 1 / N.
    effective_degree : float in [1, N]
        `1 / sum S^2`.
    entropy : float in [0, log N]
        In nats.
    """

    degree: float
    effective_degree: float
    entropy: float


def layer_weights(config: RegulariserConfig, network: PatchNetwork) -> dict[str, float]:
    """Names of the attention layers that are regularised, with their weights.

    `last` becomes the body's last block; `discriminator` is left out where there is none.

    Raises
    ------
    InputError
        If the network has no such layer.
    """
    if config.term == "none" or config.weight == 0:
        return {}
    found: dict[str, float] = {}
    for layer, weight in config.layers.items():
        name = resolve_layer(layer, network)
        if name is not None:  # one layer may be given by two names
            found[name] = found.get(name, 0.0) + weight
    return found


def resolve_layer(layer: str, network: PatchNetwork) -> str | None:
    """Find an attention layer by name: `last` is the body's last block, `last-1` its neighbour."""
    blocks = [name for name in network.attention_layers if not name.startswith("discriminator")]
    counted = re.fullmatch(r"last(?:-(\d+))?", layer)
    if counted and int(counted[1] or 0) < len(blocks):
        return blocks[-1 - int(counted[1] or 0)]
    if layer in network.attention_layers:
        return layer
    if not network.attention_layers or layer == "discriminator":
        return None
    raise InputError(
        "regulariser.layers: expected some of last, last-1, ..., "
        f"{', '.join(network.attention_layers)}, got {layer!r}"
        f"{suggestion(layer, ['last', *network.attention_layers])}"
    )


def watched_layers(config: RegulariserConfig, network: PatchNetwork) -> list[str]:
    """Attention layers whose spread is logged: last block, discriminator, those regularised."""
    usual = (resolve_layer(layer, network) for layer in ("last", "discriminator"))
    names = {*layer_weights(config, network), *(name for name in usual if name is not None)}
    return [name for name in network.attention_layers if name in names]


def regulariser(
    maps: Sequence[Attention], weights: Sequence[float], config: RegulariserConfig
) -> Tensor:
    """Penalty (B,) on narrow attention, one value an image.

    Parameters
    ----------
    maps : sequence of Attention
        Of the layers regularised.
    weights : sequence of float
        Of these layers.
    config : RegulariserConfig
        The term; its `weight` is applied here.

    Returns
    -------
    Tensor, (B,), float32
        0 for attention that is uniform.

    Notes
    -----
    PatchGuard, section 4 and supplement C.2: a high attention degree bounds what a few tokens can
    do. The soft degree and the entropy come from `robustad.ops` without an N x N matrix; `kl`
    forms it, one layer at a time.
    """
    penalties = [weight * _penalty(one, config) for one, weight in zip(maps, weights, strict=True)]
    return config.weight * torch.stack(penalties).sum(dim=0)


def _penalty(one: Attention, config: RegulariserConfig) -> Tensor:
    patches = one.q.shape[2] - one.prefix_tokens
    delta = 1 / patches if config.delta is None else config.delta
    if config.term == "kl":
        divergence = _uniform_kl(one, config.renormalise)
        return divergence / (patches if config.per == "entry" else 1)
    if one.allowed is not None:
        return _sparse_penalty(one, config, delta)
    if config.term == "degree":
        degree = attention_degree(
            one.q, one.k, delta, config.tau, prefix_tokens=one.prefix_tokens, scale=one.scale
        )
        return 1 - degree.mean(dim=(1, 2)) / patches
    found = attention_statistics(
        one.q, one.k, 1 / patches, prefix_tokens=one.prefix_tokens, scale=one.scale
    )
    return math.log(patches) - found.entropy.mean(dim=(1, 2))


def _sparse_penalty(one: Attention, config: RegulariserConfig, delta: float) -> Tensor:
    """The same penalties over the columns a row of sparse attention sees."""
    allowed = _allowed(one)
    # as the operators do: in bfloat16, sums over hundreds of entries would be off by a per cent
    maps = one._replace(q=one.q.float(), k=one.k.float()).map()
    seen = allowed.sum(dim=1)
    if config.term == "degree":
        counted = ((maps - delta) / config.tau).sigmoid() * allowed
        return 1 - counted.sum(dim=-1).mean(dim=(1, 2)) / allowed.shape[1]
    logs = maps.clamp_min(torch.finfo(maps.dtype).tiny).log() * allowed
    return (seen.log() + (maps * logs).sum(dim=-1)).mean(dim=(1, 2))


def _allowed(one: Attention) -> Tensor:
    assert one.allowed is not None
    return one.allowed[one.prefix_tokens :, one.prefix_tokens :]


def _uniform_kl(one: Attention, renormalise: bool) -> Tensor:
    """KL(uniform || attention) (B,), averaged over heads and rows of patches.

    Uniform over the columns that a row sees, of patches alone.
    """
    prefix = one.prefix_tokens
    scores = (one.q[:, :, prefix:].float() @ one.k.float().mT) * one.scale
    sees = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device)
    if one.allowed is not None:
        sees = one.allowed[prefix:]
        scores = scores.masked_fill(~sees, -torch.inf)
    inner, seen = scores[..., prefix:], sees[:, prefix:]
    total = torch.logsumexp(inner if renormalise else scores, dim=-1)
    count = seen.sum(dim=-1)
    mean = inner.masked_fill(~seen, 0.0).sum(dim=-1) / count
    return (total - mean - count.log()).mean(dim=(1, 2))


@torch.no_grad()
def spread(maps: Sequence[Attention]) -> dict[str, Spread]:
    """Degree, effective degree and entropy of each layer, averaged over everything else."""
    found = {}
    for one in maps:
        patches = one.q.shape[2] - one.prefix_tokens
        if one.allowed is not None:
            entries = one._replace(q=one.q.float(), k=one.k.float()).map()
            logs = entries.clamp_min(torch.finfo(entries.dtype).tiny).log()
            statistics = AttentionStatistics(
                (entries >= 1 / patches).sum(dim=-1).float(),
                1 / entries.square().sum(dim=-1),
                -(entries * logs).sum(dim=-1),
            )
        else:
            statistics = attention_statistics(
                one.q, one.k, 1 / patches, prefix_tokens=one.prefix_tokens, scale=one.scale
            )
        found[one.layer] = Spread(*(float(part.mean()) for part in statistics))
    return found
