import re

import pytest
import torch

from robustad.attacks import OBJECTIVES, PRESETS, attack, preset
from robustad.attacks.presets import BALL_FORM, FORM
from robustad.attacks.presets_blackbox import FORM as OTHER_FORM
from robustad.cli import common
from robustad.errors import InputError
from robustad.report.wording import condition_summary, objective


@pytest.mark.parametrize(
    ("name", "steps", "norm", "objective"),
    [
        ("pgd1", 1, "linf", "image"),
        ("pgd50", 50, "linf", "image"),
        ("pgd1000_flip", 1000, "linf", "flip"),
        ("pgd20_image", 20, "linf", "image"),
        ("pgd7_bce", 7, "linf", "bce"),
        ("pgd1000_l2", 1000, "l2", "image"),
        ("pgd1000_l2_flip", 1000, "l2", "flip"),
        ("pgd3_l2_bce", 3, "l2", "bce"),
        ("apgd50_l1_masked_ce_balanced", 50, "l1", "masked_ce_balanced"),
        ("mifgsm5_image_relaxed", 5, "linf", "image_relaxed"),
        ("difgsm7_l2", 7, "l2", "image"),
        ("adaptive_l2", 240, "l2", "several"),
        ("a3_l1", 50, "l1", "image"),
        ("autoattack_l1", 100, "l1", "several"),
        ("fab20_l1", 20, "l1", "several"),
        ("square300_l1", 0, "l1", "image"),
    ],
)
def test_names_say_steps_norm_and_objective(name, steps, norm, objective):
    found = preset(name)
    assert (found.name, found.optimiser) == (name, re.match("a3|[a-z]+", name)[0])
    assert (found.steps, found.norm, found.objective) == (steps, norm, objective)


@pytest.mark.parametrize("name", PRESETS)
def test_fixed_names_are_found_as_they_are(name):
    assert preset(name) is PRESETS[name]


def test_summaries_tell_attacks_apart():
    names = [
        f"pgd{steps}{l2}{aim}"
        for steps in (1, 2, 1000)
        for l2 in ("", "_l2")
        for aim in ("", "_flip", "_bce")
    ]
    assert len({preset(name).summary for name in names}) == len(names)
    assert preset("pgd1").summary == "1 step on the reported image score"
    assert "1000 steps in the l2 ball on normal patches up" in preset("pgd1000_l2_flip").summary


@pytest.mark.parametrize(
    "name",
    ["pgd", "pgd0", "pgd05", "pgd-1", "pgd10_", "pgd10_probe", "pgd10_flip_l2", "pgd10_l3", "PGD10",
     "pgd10\n", " pgd10", "adaptive_l3", "square_l3", "hopskipjump_l1", "hopskipjump50_l1",
     "fgsm_l2", "pgd12345678", "pgd10_flip_flip", "pgd\u0663", ""],
)  # fmt: skip
def test_other_names_are_refused_with_the_form(name):
    with pytest.raises(InputError, match=r"attack: expected one of fgsm_probe, fgsm, pgd10, ") as e:
        preset(name)
    assert f"{FORM} with an objective of image, flip, bce" in str(e.value)
    assert repr(name) in str(e.value)


def test_help_and_errors_name_every_objective_and_preset():
    listed, _, rest = common.ATTACK_NAMES.partition("; ")
    assert set(listed.split(", ")) == set(PRESETS)
    for form in (f"{FORM} with an objective of {', '.join(OBJECTIVES)}", BALL_FORM, OTHER_FORM):
        assert form in rest


def test_reports_word_them():
    assert condition_summary("pgd50_flip") == preset("pgd50_flip").summary
    assert (objective("pgd50_flip"), objective("pgd50_l2"), objective("flood")) == (
        "flip",
        "image",
        "",
    )
    assert condition_summary("flood") == "attack"


@pytest.mark.parametrize("aim", OBJECTIVES)
def test_a_named_attack_is_its_parts(smooth, images, aim):
    scorer, x = smooth(), images()
    label = torch.tensor([0, 1, 0, 1])
    mask = torch.zeros(4, 6).bool()
    mask[1, :2] = mask[3, 4:] = True
    arguments = {"label": label, "mask": mask, "eps": 0.05}
    named = attack(scorer, x, attack=f"pgd3_{aim}", **arguments)
    parts = attack(scorer, x, attack="pgd10", steps=3, objective=aim, **arguments)
    assert torch.equal(named.x_adv, parts.x_adv)
    assert float(named.distance.max()) == pytest.approx(0.05, abs=1e-6)
