"""The defences a study compares, by name: what each builds of a backbone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robustad.backbones import Backbone, create
from robustad.certificates.smoothed import SmoothedDetector
from robustad.detectors import AnomalyDINO, BankEnsemble, Detector
from robustad.errors import InputError

# What a study runs if it is not told otherwise; `robust` needs a checkpoint, `layers` a CNN.
DEFAULT_DEFENCES = (
    "none",
    "prune5",
    "prune20",
    "density5",
    "k3",
    "k9",
    "k9max",
    "bootstrap8",
)
FORM = (
    "none, prune<percent>, density<percent>, k<neighbours>, k<neighbours>max, bootstrap<banks>, "
    "layers, filters, robust or smooth<percent>"
)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What defences are built of.

    Attributes
    ----------
    plain : callable
        From options of `AnomalyDINO` and, by `backbone`, another backbone to a detector.
    backbone : Backbone
        Of the study.
    weights : str or None
        Its checkpoint.
    robust : callable
        Gives the robust backbone; raises InputError where the study has none.
    """

    plain: Callable[..., AnomalyDINO]
    backbone: Backbone
    weights: str | None
    robust: Callable[[], Backbone]


@dataclass(frozen=True)
class Defence:
    """One row of a study.

    Attributes
    ----------
    name : str
        As given.
    summary : str
        What it is, in a few words.
    build : callable
        From `Parts` to a detector that is not fitted.
    """

    name: str
    summary: str
    build: Callable[[Parts], Detector]


def defence(name: str) -> Defence:
    """Look up a defence.

    Parameters
    ----------
    name : str
        `none`; `prune5` (drop 5% of the bank by distance), `density5` (by local density); `k3`
        (mean of 3 neighbours), `k3max` (the third); `bootstrap8` (8 resampled banks); `layers` (a
        bank for each of the CNN's layers), `filters` (a second bank of the embedded filters);
        `robust` (the study's robust backbone in place of its own); `smooth12` (median smoothing
        with noise 0.12, 16 copies, fitted on noisy images).

    Returns
    -------
    Defence
        Of that name.

    Raises
    ------
    InputError
        If there is none.

    Examples
    --------
    >>> defence("prune5").summary
    'without the 5% of the bank that lie farthest out'
    """
    for pattern, make in _KINDS.items():
        if found := re.fullmatch(pattern, name):
            return make(name, *map(int, found.groups()))
    raise InputError(f"defence: expected {FORM}, got {name!r}")


def _none(name: str) -> Defence:
    return Defence(name, "nearest neighbour in the whole bank", lambda parts: parts.plain())


def _prune(name: str, percent: int) -> Defence:
    what = f"without the {percent}% of the bank that lie farthest out"
    return Defence(name, what, lambda parts: parts.plain(prune=percent / 100))


def _density(name: str, percent: int) -> Defence:
    what = f"without the {percent}% of the bank in the sparsest places"
    options = {"prune": percent / 100, "prune_by": "density"}
    return Defence(name, what, lambda parts: parts.plain(**options))


def _mean(name: str, k: int) -> Defence:
    return Defence(name, f"mean of {k} neighbours", lambda parts: parts.plain(k=k))


def _last(name: str, k: int) -> Defence:
    what = f"distance to neighbour {k}"
    return Defence(name, what, lambda parts: parts.plain(k=k, reduce="max"))


def _bootstrap(name: str, banks: int) -> Defence:
    what = f"mean over {banks} resampled banks"
    return Defence(name, what, lambda parts: _ensemble([parts.plain()], banks=banks))


def _layers(name: str) -> Defence:
    def build(parts: Parts) -> Detector:
        config = parts.backbone.config
        if config.layers is None or len(config.layers) < 2:
            raise InputError(f"defence 'layers': expected a CNN with several, got {config.name}")
        views = [
            parts.plain(
                backbone=create(
                    config.name,
                    parts.weights,
                    layers=(layer,),
                    normalisation=config.normalisation,
                )
            )
            for layer in config.layers
        ]
        return _ensemble(views)

    return Defence(name, "mean over a bank a layer", build)


def _filters(name: str) -> Defence:
    def build(parts: Parts) -> Detector:
        if parts.backbone.config.name == "filters":
            raise InputError("defence 'filters': expected another backbone to add the filters to")
        return _ensemble([parts.plain(), parts.plain(backbone=create("filters"))])

    return Defence(name, "mean with a bank of the embedded filters", build)


def _robust(name: str) -> Defence:
    what = "the robust backbone"
    return Defence(name, what, lambda parts: parts.plain(backbone=parts.robust()))


def _smooth(name: str, percent: int) -> Defence:
    what = f"median over 16 copies with noise {percent / 100:g}"
    return Defence(
        name,
        what,
        lambda parts: SmoothedDetector(parts.plain(), sigma=percent / 100, draws=16),
    )


def _ensemble(views: list[AnomalyDINO], **options: Any) -> BankEnsemble:
    return BankEnsemble(views, top_fraction=views[0].top_fraction, **options)


_KINDS: dict[str, Callable[..., Defence]] = {
    "none": _none,
    r"prune([1-9]\d?)": _prune,
    r"density([1-9]\d?)": _density,
    r"k([1-9]\d?)": _mean,
    r"k([1-9]\d?)max": _last,
    r"bootstrap([2-9]|[1-9]\d)": _bootstrap,
    "layers": _layers,
    "filters": _filters,
    "robust": _robust,
    r"smooth([1-9]\d?)": _smooth,
}
