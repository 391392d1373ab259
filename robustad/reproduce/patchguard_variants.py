"""What each of PatchGuard's tables varies, as overrides of a training configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robustad.attacks import preset as attack_preset
from robustad.errors import InputError
from robustad.networks.config import PATCH
from robustad.training.config import TrainingConfig

TABLES = ("main", "7", "8", "9", "10", "11", "12", "19", "20", "21")
TITLES = {
    "main": "Main result",
    "7": "Table 7. Trained on clean images alone",
    "8": "Table 8. Threshold of the attention degree, N patches",
    "9": "Table 9. Size of the transformer",
    "10": "Table 10. Convolutional bodies",
    "11": "Table 11. Sparse attention",
    "12": "Table 12. Block that is regularised, of N",
    "19": "Table 19. Attention discriminator",
    "20": "Table 20. Radius in training and evaluation",
    "21": "Table 21. Attacks in the l2 ball",
}
L2_RADII = (16, 32, 64, 128)
# Fields that only vision transformers take, at the values that other bodies are checked for.
_NO_VIT: dict[str, Any] = {
    "network.depth": None,
    "network.embed_dim": None,
    "network.num_heads": None,
    "network.mlp_ratio": None,
    "network.attention": "full",
    "network.layer_scale": "model",
    "network.stem": "patch",
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a table.

    Attributes
    ----------
    table, name : str
        A key of `TITLES`, and the row as `patchguard_published.PUBLISHED` names it.
    overrides : mapping of str to object
        Fields of the training configuration, dotted, and their values.
    l2 : float or None
        Radius of the evaluation's attacks, which then are l2 ones; None for the l-infinity radius
        that the model was trained at.
    """

    table: str
    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    l2: float | None = None


def variants(table: str, base: TrainingConfig) -> list[Variant]:
    """Rows of a table.

    Parameters
    ----------
    table : str
        One of `TABLES`.
    base : TrainingConfig
        What the main row is trained with; the others differ from it in what their table varies.

    Returns
    -------
    list of Variant
        In the published order. A row that says what the base says already overrides nothing that
        matters, so that its model is the main one.

    Raises
    ------
    InputError
        If there is no such table, or it does not apply to the base configuration.

    Examples
    --------
    >>> [row.name for row in variants("19", TrainingConfig())]
    ['without discriminator', 'with discriminator']
    """
    if table not in TABLES:
        raise InputError(f"table: expected some of {', '.join(TABLES)}, got {table!r}")
    if base.network.family != "vit" and table in ("8", "9", "11", "12", "19"):
        raise InputError(
            f"table: {table} is about attention, but the body is {base.network.body}; "
            "expected a vision transformer"
        )
    depth = base.network.depth
    if table == "12" and depth is not None and depth < 3:
        raise InputError(
            f"table: 12 regularises block N-2 of N, but network.depth is {depth}; expected 3 or "
            "more"
        )
    rows = _rows(table, base)
    return [
        Variant(table=table, name=name, overrides=overrides, l2=l2) for name, overrides, l2 in rows
    ]


def _rows(table: str, base: TrainingConfig) -> Sequence[tuple[str, dict[str, Any], float | None]]:
    if table == "21":
        return [(f"l2 eps {radius}/255", {}, radius / 255) for radius in L2_RADII]
    made: dict[str, dict[str, Any]]
    if table == "main":
        made = {"PatchGuard": {}}
    elif table == "7":
        # Robust early stopping would choose weights for a robustness that is not trained for.
        made = {"trained clean": {"attack.steps": 0, "validation.every": 0}}
    elif table == "8":
        patches = (base.network.image_size // _patch(base)) ** 2
        degree = {"regulariser.term": "degree"}
        made = {
            "delta 1/(2N)": degree | {"regulariser.delta": 1 / (2 * patches)},
            "delta 1/N": degree | {"regulariser.delta": None},  # which means 1 / N
            "delta 2/N": degree | {"regulariser.delta": 2 / patches},
        }
    elif table == "9":
        made = {f"ViT {size}": _sized(base, size) for size in ("small", "base", "large")}
    elif table == "10":
        convolutional = _NO_VIT | {"network.patch_size": _patch(base)}
        made = {
            "U-Net": convolutional | {"network.body": "unet"},
            "ResNet-50": convolutional | {"network.body": "resnet50"},
        }
    elif table == "11":
        sparse = {"network.attention": "bigbird"}
        made = {
            "BigBird": sparse | {"regulariser.term": "none"},
            "BigBird, regularised": sparse,
            "full attention": {"network.attention": "full"},
        }
    elif table == "12":
        made = {
            name: {"regulariser.layers": _layers(base, layer)}
            for name, layer in (
                ("block N-2", "last-2"),
                ("block N-1", "last-1"),
                ("block N", "last"),
            )
        }
    elif table == "19":
        made = {
            "without discriminator": {"network.discriminator": False},
            "with discriminator": {"network.discriminator": True},
        }
    else:
        made = {f"eps {radius}/255": _radius(base, radius / 255) for radius in (2, 4, 8)}
    return [(name, overrides, None) for name, overrides in made.items()]


def l2_attacks(attacks: Sequence[str]) -> list[str]:
    """Name the l2 twins of attacks: `pgd1000_flip` becomes `pgd1000_l2_flip`."""
    twins = []
    for name in attacks:
        found = attack_preset(name)
        aim = "" if found.objective == "image" else f"_{found.objective}"
        twins.append(f"pgd{found.steps}_l2{aim}")
    return list(dict.fromkeys(twins))


def _radius(base: TrainingConfig, eps: float) -> dict[str, float]:
    """Another radius; steps of a given size grow and shrink with it, as those by default do."""
    size = base.attack.step_size
    if size is None or eps == base.attack.eps:
        return {"attack.eps": eps}
    return {"attack.eps": eps, "attack.step_size": size * eps / base.attack.eps}


def _patch(base: TrainingConfig) -> int:
    """Edge of a patch in pixels, which a ViT's name tells."""
    if base.network.patch_size is not None:
        return base.network.patch_size
    found = re.search(r"patch(\d+)", base.network.body)
    return int(found[1]) if found else PATCH


def _sized(base: TrainingConfig, size: str) -> dict[str, Any]:
    body, count = re.subn(r"vit_(tiny|small|base|large)_", f"vit_{size}_", base.network.body)
    if count != 1:
        raise InputError(
            f"table: 9 varies the size in the body's name, which {base.network.body} has not; "
            "expected a name such as vit_small_patch14_dinov2"
        )
    if body == base.network.body:
        return {}
    shape = {f"network.{name}": None for name in ("depth", "embed_dim", "num_heads", "mlp_ratio")}
    # Heads of at most 128 channels, as the degree's operator takes them: 96 and 128 here.
    return shape | {"network.body": body, "network.discriminator_heads": 8}


def _layers(base: TrainingConfig, layer: str) -> dict[str, float]:
    """The base's regularised layers, its blocks replaced by one."""
    layers = base.regulariser.layers
    kept = {name: weight for name, weight in layers.items() if name == "discriminator"}
    return kept | {layer: layers.get("last", 1.0)}
