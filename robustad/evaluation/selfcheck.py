"""A search for signs that attacks fail for the wrong reason, by small attacks of its own."""

from __future__ import annotations

from collections.abc import Sequence

from robustad.attacks import preset
from robustad.data import Sample
from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.evaluation.checks import CHECKS, checks_of, merged, restarts_check
from robustad.evaluation.probes import quick_checks
from robustad.evaluation.result import Check, Evaluation
from robustad.evaluation.run import evaluate

__all__ = ["CHECKS", "selfcheck"]
WIDE_EPS = 0.5  # half the pixel range: everything in reach of a grey image
RESTARTS = 3


def selfcheck(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    eps: float = 8 / 255,
    steps: int = 20,
    queries: int = 200,
    images: int = 8,
    batch_size: int = 8,
) -> list[Check]:
    """Run small attacks of every kind on a few images and look for what does not fit.

    Parameters
    ----------
    detector : Detector
        Fitted.
    samples : sequence of Sample
        Labelled images with both classes.
    eps : float in (0, 0.25), default 8/255
        Radius of the attacks; they also run at twice of it and at 0.5.
    steps : int, default 20
        Of PGD, and twice as many.
    queries : int, default 200
        Of the attack that sees scores alone.
    images : int, default 8
        Of each class at most: the first ones.
    batch_size : int, default 8
        Images attacked at once.

    Returns
    -------
    list of Check
        One each of `CHECKS`. A check that fired names a fault that makes figures of robustness
        meaningless; none is a proof that there is none.

    Raises
    ------
    InputError
        If a class is missing or an option is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from robustad import AnomalyDINO
    >>> from robustad.data import Sample
    >>> pixels = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    >>> detector = AnomalyDINO("filters", image_size=32).fit(pixels[0])
    >>> some = [Sample(image=p, label=i % 2, name=str(i)) for i, p in enumerate(pixels[1:])]
    >>> found = selfcheck(detector, some, steps=5, queries=20)
    >>> [check.name for check in found] == list(CHECKS)
    True
    """
    if not 0.0 < eps < 0.25:
        raise InputError(f"eps: expected a radius in (0, 0.25), got {eps}")
    for name, value in (("steps", steps), ("queries", queries), ("images", images)):
        if value < 1:
            raise InputError(f"{name}: expected >= 1, got {value}")
    some = few_of_each(samples, images)
    quick = quick_checks(detector, some)
    state = {check.name: check for check in quick}
    if state["train_mode"].fired and detector.training:
        why = "the detector is in training mode"
        rest = (name for name in CHECKS if name not in state)
        return merged(
            quick, [Check(name=n, fired=None, sentence=f"Not asked: {why}.") for n in rest]
        )
    # Where no image has a gradient there is nothing to follow, and attacks that try only refuse.
    gradient = state["zero_gradient"]
    white = gradient.fired is not None and gradient.numbers["dead"] != gradient.numbers["images"]
    short, long = f"pgd{steps}", f"pgd{2 * steps}"
    blind = _blind(queries)

    def run(*attacks: str, radii: Sequence[float] = (eps,), restarts: int = 1) -> Evaluation:
        return evaluate(
            detector,
            some,
            attacks=attacks,
            eps=radii,
            pixel=False,
            batch_size=batch_size,
            restarts=restarts,
        )

    if not white:
        # At the widest radius even an attack without gradients has to get through.
        found = run(*blind, radii=(eps, 2 * eps, WIDE_EPS)) if blind else None
        return merged(quick, [] if found is None else checks_of(found), _open(gradient))
    main = run("fgsm", short, long, radii=(eps, 2 * eps, WIDE_EPS))
    if blind:
        extra = run(*blind)
        main.conditions |= {name: extra.conditions[name] for name in extra.attacks}
    restarted = restarts_check(run(short), run(short, restarts=RESTARTS), RESTARTS)
    return merged(quick, checks_of(main), [restarted])


def few_of_each(samples: Sequence[Sample], count: int) -> list[Sample]:
    """First `count` samples of each class, normal ones first."""
    return [
        sample
        for label in (0, 1)
        for sample in [one for one in samples if one.label == label][:count]
    ]


def _blind(queries: int) -> list[str]:
    name = f"square{queries}"
    try:
        preset(name)
    except InputError:
        return []
    return [name]


def _open(gradient: Check) -> list[Check]:
    why = "there is no gradient to follow" if gradient.fired else "the model shows scores alone"
    return [
        Check(name=name, fired=None, sentence=f"Not asked: {why}.")
        for name in ("single_step_stronger", "steps_matter", "restarts_matter")
    ]
