"""Named attacks: what is maximised, by which optimiser, for how long."""

import re
from dataclasses import replace

from robustad.attacks import runs
from robustad.attacks.named import Preset
from robustad.attacks.objectives import AIMS, MASKLESS, OBJECTIVES
from robustad.attacks.presets_blackbox import FORM as OTHER_FORM
from robustad.attacks.presets_blackbox import STANDARD, blackbox_preset
from robustad.attacks.projection import Norm
from robustad.errors import InputError

# What `preset` understands beside the fixed names; shown in help texts and errors.
FORM = "(pgd|apgd|mifgsm|difgsm)<steps>[_l2|_l1][_<objective>]"
BALL_FORM = "(segpgd|sea|caa|a3|autoattack|adaptive)_(l2|l1)"
_FORM = re.compile(
    rf"(pgd|apgd|mifgsm|difgsm)([1-9]\d{{0,6}})(?:_(l2|l1))?(?:_({'|'.join(OBJECTIVES)}))?",
    re.ASCII,
)
SCHEDULE = frozenset({"steps", "step_size", "random", "restarts"})
BALLS = {"linf": "", "l2": " in the l2 ball", "l1": " in the l1 ball"}


def _iterated(
    optimiser: str, name: str, steps: int, norm: Norm = "linf", objective: str = "image"
) -> Preset:
    """Steps along gradients of one objective in one ball."""
    how, run = runs.ITERATED[optimiser]
    return Preset(
        name=name,
        optimiser=optimiser,
        objective=objective,
        steps=steps,
        norm=norm,
        needs=frozenset() if objective in MASKLESS else frozenset({"mask"}),
        takes=SCHEDULE,
        summary=f"{steps} {how}step{'s'[: steps > 1]}{BALLS[norm]} on {AIMS[objective]}",
        run=lambda problem, options: run(problem, options, steps),
    )


_FIXED = (
    Preset(
        name="fgsm_probe",
        optimiser="fgsm",
        objective="probe",
        needs=frozenset({"probe", "mask", "features"}),
        takes=SCHEDULE,
        summary="the few-shot study's attack: FGSM on a linear probe, not on the score",
        run=runs.run_probe,
    ),
    Preset(
        name="fgsm",
        optimiser="fgsm",
        objective="image",
        takes=SCHEDULE,
        summary="one step on the reported image score",
        run=runs.run_fgsm,
    ),
    _iterated("pgd", "pgd10", 10),
    _iterated("pgd", "pgd100", 100),
    _iterated("pgd", "pgd1000", 1000),
    _iterated("pgd", "pgd_l2", 100, "l2"),
    _iterated("pgd", "pgd_l1", 100, "l1"),
    _iterated("mifgsm", "mifgsm", 10),
    _iterated("difgsm", "difgsm", 10),
    _iterated("apgd", "apgd", 100),
    Preset(
        name="segpgd",
        optimiser="segpgd",
        objective="segpgd",
        steps=100,
        needs=frozenset({"mask"}),
        takes=SCHEDULE,
        summary="a hundred steps that first turn the patches still right",
        run=runs.run_segpgd,
    ),
    Preset(
        name="sea",
        optimiser="sea",
        objective="several",
        steps=300,
        needs=frozenset({"mask"}),
        takes=frozenset({"steps"}),
        summary="APGD in a shrinking ball on three segmentation losses, 300 steps each",
        run=runs.run_sea,
    ),
    Preset(
        name="caa",
        optimiser="caa",
        objective="several",
        steps=125,
        needs=frozenset({"mask"}),
        summary="a chain of APGD stages on flip, flip and the margin",
        run=runs.run_caa,
    ),
    Preset(
        name="a3",
        optimiser="a3",
        objective="image",
        steps=50,
        takes=frozenset({"steps", "restarts"}),
        summary="thirteen runs from starts that random directions of the patch scores choose",
        run=runs.run_a3,
    ),
    *STANDARD,
    Preset(
        name="autoattack",
        optimiser="autoattack",
        objective="several",
        steps=100,
        needs=frozenset({"mask"}),
        takes=frozenset({"steps", "queries"}),
        summary="worst of APGD on cross-entropy and score, PGD on flip, FAB and Square",
        run=runs.run_autoattack,
    ),
    Preset(
        name="adaptive",
        optimiser="adaptive",
        objective="several",
        steps=240,
        summary="our strongest for its cost: image score and patches, from several starts",
        run=runs.run_adaptive,
    ),
)
_ENSEMBLE = re.compile(r"(segpgd|sea|caa|a3|autoattack|adaptive)_(l2|l1)", re.ASCII)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _FIXED}


def preset(name: str) -> Preset:
    """Look up a named attack.

    Parameters
    ----------
    name : str
        A key of `PRESETS`, or a form: `pgd`, `apgd`, `mifgsm` or `difgsm` with a number of steps
        (1 to 9999999), then `_l2` or `_l1` for another ball than the l-infinity one, then `_` and
        one of `OBJECTIVES` (`image` by default): `pgd1000_l2_flip`. Or `segpgd`, `sea`, `caa`,
        `a3`, `autoattack` or `adaptive` with `_l2` or `_l1`. Or one of `presets_blackbox`:
        `square10000`, `fab_l2`.

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
    if found := _FORM.fullmatch(name):
        return _iterated(found[1], name, int(found[2]), _norm(found[3]), found[4] or "image")
    if found := _ENSEMBLE.fullmatch(name):
        made, norm = PRESETS[found[1]], _norm(found[2])
        return replace(made, name=name, norm=norm, summary=made.summary + BALLS[norm])
    if other := blackbox_preset(name):
        return other
    raise InputError(
        f"attack: expected one of {', '.join(PRESETS)}, {FORM} with an objective of "
        f"{', '.join(OBJECTIVES)}, {BALL_FORM}, or {OTHER_FORM}; got {name!r}"
    )


def _norm(name: str | None) -> Norm:
    return "l2" if name == "l2" else "l1" if name == "l1" else "linf"
