"""Named attacks: what is maximised, by which optimiser, for how long."""

from dataclasses import dataclass
from typing import Literal

from robustad.errors import InputError


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
    summary : str
        One line for help texts and reports.
    """

    name: str
    optimiser: Literal["fgsm", "pgd"]
    objective: str
    steps: int = 1
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

    Raises
    ------
    InputError
        If there is no such attack; the message lists them.
    """
    if name not in PRESETS:
        raise InputError(f"attack: expected one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]
