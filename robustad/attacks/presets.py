"""Named attacks: what is maximised, by which optimiser, for how long."""

import re
from dataclasses import dataclass
from typing import Literal

from robustad.attacks.objectives import OBJECTIVES
from robustad.attacks.pgd import Norm
from robustad.errors import InputError

# What `preset` understands beside the fixed names; shown in help texts and errors.
FORM = f"pgd<steps>[_l2][_<{'|'.join(OBJECTIVES)}>]"
_FORM = re.compile(rf"pgd([1-9]\d{{0,6}})(_l2)?(?:_({'|'.join(OBJECTIVES)}))?", re.ASCII)
_AIMS = {
    "image": "the reported image score",
    "flip": "normal patches up, anomalous ones down (PatchGuard's published attack)",
    "bce": "the patches' mean cross-entropy",
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One named attack.

    Attributes
    ----------
    name : str
        As `attack` takes it.
    optimiser : {"fgsm", "pgd"}
        FGSM is a single step of eps.
    objective : str
        A key of `OBJECTIVES`, or `probe` for the linear probe's cross-entropy.
    steps : int, default 1
        Gradient steps.
    norm : {"linf", "l2"}, default "linf"
        Of the ball that the attack stays in.
    summary : str
        One line for help texts and reports.
    """

    name: str
    optimiser: Literal["fgsm", "pgd"]
    objective: str
    steps: int = 1
    norm: Norm = "linf"
    summary: str


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="fgsm_probe",
            optimiser="fgsm",
            objective="probe",
            summary="the few-shot study's attack: FGSM on a linear probe, not on the score",
        ),
        Preset(
            name="fgsm",
            optimiser="fgsm",
            objective="image",
            summary="one step on the reported image score",
        ),
        Preset(
            name="pgd10",
            optimiser="pgd",
            objective="image",
            steps=10,
            summary="ten steps on the reported image score",
        ),
        Preset(
            name="pgd100",
            optimiser="pgd",
            objective="image",
            steps=100,
            summary="a hundred steps on the reported image score",
        ),
    )
}


def preset(name: str) -> Preset:
    """Look up a named attack.

    Parameters
    ----------
    name : str
        A key of `PRESETS`, or `pgd<steps>[_l2][_<objective>]`: PGD of that many steps (1 to
        9999999) in the l-infinity ball, or with `_l2` in the l2 ball, on `image` (the default),
        `flip` or `bce`.

    Returns
    -------
    Preset
        Of that name.

    Raises
    ------
    InputError
        If there is no such attack; the message lists them.

    Examples
    --------
    >>> found = preset("pgd1000_l2_flip")
    >>> found.steps, found.norm, found.objective
    (1000, 'l2', 'flip')
    """
    if name in PRESETS:
        return PRESETS[name]
    found = _FORM.fullmatch(name)
    if found is None:
        raise InputError(f"attack: expected one of {', '.join(PRESETS)} or {FORM}, got {name!r}")
    steps, l2, objective = int(found[1]), found[2] is not None, found[3] or "image"
    return Preset(
        name=name,
        optimiser="pgd",
        objective=objective,
        steps=steps,
        norm="l2" if l2 else "linf",
        summary=f"{steps} step{'s'[: steps > 1]}{' in the l2 ball' if l2 else ''} on "
        f"{_AIMS[objective]}",
    )
