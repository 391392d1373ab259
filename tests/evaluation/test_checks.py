"""Each check fires on an evaluation made to show its fault, and on no sound one."""

import numpy as np
import pytest

from robustad.evaluation import Condition, Evaluation, Metrics
from robustad.evaluation.checks import CHECKS, checks_of, merged, restarts_check
from robustad.evaluation.result import AT, Check, eps_name
from robustad.evaluation.worst import worst_of
from robustad.metrics import auroc

LABELS = [0] * 6 + [1] * 6
CLEAN = [*np.linspace(0.1, 0.3, 6), *np.linspace(0.25, 0.5, 6)]
SIGN = 1 - 2 * np.array(LABELS)


def moved(by, jitter=0.0):
    """Scores that an attack moved by this much the wrong way, each image a little more or less."""
    extra = jitter * np.cos(np.arange(len(LABELS)))
    return (np.array(CLEAN) + SIGN * (by + extra)).tolist()


def evaluation(attacks, *, radii=(8 / 255,), flags=None):
    """Attacks by name: how far each moves the scores at each radius."""

    def made(name, eps, score):
        return Condition(
            name=name,
            eps=eps,
            score=score,
            worst_score=score if eps else None,
            metrics=Metrics(auroc=auroc(score, LABELS), ap=1.0, f1_max=1.0, gmean_max=1.0),
            backward=[3] * len(LABELS) if eps else None,
            flags={} if flags is None else flags.get(name, {}),
        )

    conditions = {"clean": made("clean", None, CLEAN)}
    for place, eps in enumerate(radii):
        end = f"{AT}{eps_name(eps)}" if place else ""
        scores = {name: moved(by[place]) for name, by in attacks.items()}
        conditions |= {name + end: made(name, eps, score) for name, score in scores.items()}
        worst, _ = worst_of([CLEAN, *scores.values()], np.array(LABELS))
        conditions["worst_case" + end] = made("worst_case", eps, worst.tolist())
    return Evaluation(
        method="m",
        dataset="d",
        category="c",
        names=[str(i) for i in range(len(LABELS))],
        defects=["good"] * 6 + ["hole"] * 6,
        labels=LABELS,
        eps=radii[0],
        epsilons=[*radii],
        conditions=conditions,
    )


def fired(found):
    return {check.name for check in found if check.fired}


SOUND = {
    "fgsm": (0.02, 0.03, 0.1),
    "pgd20": (0.05, 0.09, 0.4),
    "pgd40": (0.05, 0.09, 0.4),
    "square200": (0.03, 0.05, 0.2),
}
RADII = (8 / 255, 16 / 255, 0.5)


def test_a_sound_evaluation_raises_no_flag_and_leaves_no_question_open():
    found = checks_of(evaluation(SOUND, radii=RADII))
    assert fired(found) == set()
    assert [check.fired for check in found] == [False] * 6


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"square200": (0.06, 0.12, 0.2)}, "black_box_stronger"),
        ({"fgsm": (0.06, 0.07, 0.1)}, "single_step_stronger"),
        (
            {
                **dict.fromkeys(("pgd20", "pgd40"), (0.05, 0.04, 0.4)),
                "square200": (0.03, 0.04, 0.2),
            },
            "larger_eps_weaker",
        ),
        (
            {"fgsm": (0.01,) * 3, "square200": (0.01,) * 3}
            | dict.fromkeys(("pgd20", "pgd40"), (0.01, 0.01, 0.02)),
            "large_eps_not_chance",
        ),
        ({"pgd20": (0.03, 0.09, 0.4), "fgsm": (0.02, 0.03, 0.1)}, "steps_matter"),
    ],
)
def test_each_fault_fires_its_check_alone(change, name):
    found = checks_of(evaluation({**SOUND, **change}, radii=RADII))
    assert fired(found) == {name}
    [check] = [check for check in found if check.fired]
    assert CHECKS[name]
    assert any(character.isdigit() for character in check.sentence)
    assert check.numbers


def test_flags_of_attacks_fire_zero_gradient():
    found = checks_of(evaluation(SOUND, radii=RADII, flags={"pgd20": {"zero_gradient": 4}}))
    assert fired(found) == {"zero_gradient"}
    assert found[0].numbers["images"] == 4
    assert "pgd20" in found[0].sentence


def test_what_cannot_be_told_is_not_asked():
    found = {check.name: check for check in checks_of(evaluation({"fgsm": (0.02,)}))}
    for name in (
        "black_box_stronger",
        "single_step_stronger",
        "larger_eps_weaker",
        "large_eps_not_chance",
        "steps_matter",
    ):
        assert found[name].fired is None
        assert found[name].sentence.startswith("Not asked: ")
    assert found["zero_gradient"].fired is False
    assert {check.fired for check in checks_of(evaluation({}))} == {None}


def test_attacks_on_another_objective_or_norm_are_not_compared():
    found = evaluation({"fgsm": (0.05,), "pgd10_l2": (0.01,), "pgd10_flip": (0.01,)})
    assert fired(checks_of(found)) == set()
    apart = {"square200": (0.05,), "pgd10_l2": (0.01,)}
    assert fired(checks_of(evaluation(apart))) == set()
    both = {**apart, "pgd10": (0.06,), "square200_l2": (0.02,)}
    assert fired(checks_of(evaluation(both))) == {"black_box_stronger"}


def test_restarts():
    one, same = evaluation({"pgd20": (0.03,)}), evaluation({"pgd20": (0.031,)})
    more = evaluation({"pgd20": (0.09,)})
    assert restarts_check(one, more, 5).fired is True
    assert restarts_check(one, same, 5).fired is False


def test_merging_keeps_what_fired_and_the_order():
    no = Check(name="randomised", fired=False, sentence="No.", numbers={"a": 1})
    yes = Check(name="randomised", fired=True, sentence="Yes.", numbers={"b": 2})
    open_ = Check(name="train_mode", fired=None, sentence="Not asked.")
    asked = Check(name="train_mode", fired=False, sentence="All of it is in eval().")
    assert merged([no, open_], [yes, asked]) == [asked, yes]
    assert merged([open_]) == [open_]
    assert merged([]) == []
