"""Named attacks: what is maximised, by which optimiser, for how long."""

import re

from torch import Tensor

from robustad.attacks.named import Preset
from robustad.attacks.objectives import AIMS, MASKLESS, OBJECTIVES
from robustad.attacks.options import Options
from robustad.attacks.pgd import fgsm, pgd
from robustad.attacks.presets_blackbox import FORM as OTHER_FORM
from robustad.attacks.presets_blackbox import STANDARD, blackbox_preset
from robustad.attacks.probe import on_probe
from robustad.attacks.problem import Problem
from robustad.attacks.projection import Norm
from robustad.errors import InputError

# What `preset` understands beside the fixed names; shown in help texts and errors.
FORM = "pgd<steps>[_l2|_l1][_<objective>]"
_FORM = re.compile(rf"pgd([1-9]\d{{0,6}})(?:_(l2|l1))?(?:_({'|'.join(OBJECTIVES)}))?", re.ASCII)
SCHEDULE = frozenset({"steps", "step_size", "random", "restarts"})
_BALLS = {"linf": "", "l2": " in the l2 ball", "l1": " in the l1 ball"}


def _pgd(name: str, steps: int, norm: Norm = "linf", objective: str = "image") -> Preset:
    def run(problem: Problem, options: Options) -> Tensor:
        return pgd(
            problem,
            steps=options.steps or steps,
            step_size=options.step_size,
            random=options.random,
            restarts=options.restarts,
            keep=options.iterate,
        )

    return Preset(
        name=name,
        optimiser="pgd",
        objective=objective,
        steps=steps,
        norm=norm,
        needs=frozenset() if objective in MASKLESS else frozenset({"mask"}),
        takes=SCHEDULE,
        summary=f"{steps} step{'s'[: steps > 1]}{_BALLS[norm]} on {AIMS[objective]}",
        run=run,
    )


def _fgsm(problem: Problem, options: Options) -> Tensor:
    if options.steps is None:
        return fgsm(problem)
    return pgd(
        problem,
        steps=options.steps,
        step_size=options.step_size,
        random=options.random,
        restarts=options.restarts,
        keep=options.iterate,
    )


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="fgsm_probe",
            optimiser="fgsm",
            objective="probe",
            needs=frozenset({"probe", "mask", "features"}),
            takes=SCHEDULE,
            summary="the few-shot study's attack: FGSM on a linear probe, not on the score",
            run=lambda problem, options: _fgsm(on_probe(problem, options), options),
        ),
        Preset(
            name="fgsm",
            optimiser="fgsm",
            objective="image",
            takes=SCHEDULE,
            summary="one step on the reported image score",
            run=_fgsm,
        ),
        _pgd("pgd10", 10),
        _pgd("pgd100", 100),
        _pgd("pgd1000", 1000),
        _pgd("pgd_l2", 100, "l2"),
        *STANDARD,
    )
}


def preset(name: str) -> Preset:
    """Look up a named attack.

    Parameters
    ----------
    name : str
        A key of `PRESETS`, or `pgd<steps>[_l2|_l1][_<objective>]`: PGD of that many steps (1 to
        9999999) in the l-infinity, l2 or l1 ball on any of `OBJECTIVES`, `image` by default; or a
        form of `presets_blackbox`: `square10000`, `fab_l2`.

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
    other = blackbox_preset(name)
    if other is not None:
        return other
    found = _FORM.fullmatch(name)
    if found is None:
        raise InputError(
            f"attack: expected one of {', '.join(PRESETS)}, {FORM} with an objective of "
            f"{', '.join(OBJECTIVES)}, or {OTHER_FORM}, got {name!r}"
        )
    norm: Norm = "l2" if found[2] == "l2" else "l1" if found[2] == "l1" else "linf"
    return _pgd(name, int(found[1]), norm, found[3] or "image")
