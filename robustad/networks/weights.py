"""What `weights` means for a network: random ones, published ones by name, or a file."""

from __future__ import annotations

from pathlib import Path

from robustad.backbones.weights import RANDOM
from robustad.errors import InputError
from robustad.networks.config import NetworkConfig

PUBLISHED = "published"


def named_weights(
    config: NetworkConfig, weights: str | Path | None
) -> tuple[str, str | Path | None]:
    """Name and weights as `robustad.backbones.weights.build` takes them.

    Raises
    ------
    InputError
        If published weights are asked for, but not in their shape.
    """
    if weights is None or weights == RANDOM:
        return config.body, RANDOM
    base = config.body.split(".")[0]
    by_name = weights == PUBLISHED or str(weights).split(".")[0] == base
    if not by_name or Path(weights).is_file():
        return config.body, weights
    if config.shrinking or config.layer_scale is None:
        raise InputError(
            f"weights: {weights!r} are for {base} as it is, but the configuration changes "
            f"{', '.join(config.shrinking) or 'layer_scale'}"
        )
    return (config.body if weights == PUBLISHED else str(weights)), None
