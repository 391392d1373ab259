"""What holds for every named attack, driven by one table of cases."""

import dataclasses
import re
from itertools import pairwise

import pytest
import torch

from robustad.attacks import PRESETS, LinearProbe, attack, preset
from robustad.attacks.projection import distance, slack
from robustad.errors import InputError

EPS = {"linf": 0.05, "l2": 0.4, "l1": 3.0}
FORMS = (
    "pgd3_l1_margin", "pgd4_image_relaxed", "pgd4_section_l", "pgd4_js", "apgd8_l2_flip",
    "apgd9_l1", "mifgsm3_l2", "difgsm3_bce", "square50_l2", "spsa300", "fab_l2",
    "hopskipjump300_l2", "sea_l2", "segpgd_l1", "caa_l2", "a3_l1", "autoattack_l2", "autoattack_l1",
    "adaptive_l2", "adaptive_l1", "square50_l1", "fab_l1",
)  # fmt: skip
NAMES = (*PRESETS, *FORMS)
# Fewer steps and queries than by default, where a preset takes them.
SHORT = {"steps": 6, "queries": 600}


class Case:
    """A detector, images of both kinds and all that any preset needs."""

    def __init__(self, banked, images, count=4):
        self.detector = banked()
        self.x = images(count)
        self.label = torch.tensor([0, 1, 0, 1, 1, 0])[:count]
        self.mask = torch.zeros(count, 16, dtype=torch.bool)
        self.mask[self.label == 1, 3:7] = True
        self.surrogate = banked(seed=1)
        everything = images(8, seed=7), torch.arange(16).expand(8, 16) % 5 == 0
        self.probe = LinearProbe.fit(self.detector, [everything])
        with torch.no_grad():
            scores = self.detector.aggregate(self.detector.patch_scores(images(32, seed=5)))
        self.threshold = float(scores.median())

    def run(self, name, rows=slice(None), **options):
        chosen = preset(name)
        short = {key: value for key, value in SHORT.items() if key in chosen.takes}
        if name == "fgsm":
            short = {}
        if chosen.access in ("score", "decision"):
            short.pop("steps", None)
        given = {
            "label": self.label[rows],
            "mask": self.mask[rows],
            "eps": EPS[chosen.norm],
            "seeds": list(range(10, 10 + len(self.x)))[rows],
            "threshold": self.threshold,
            "probe": self.probe,
            "surrogate": self.surrogate,
            **short,
            **options,
        }
        return attack(self.detector, self.x[rows], attack=name, **given)


@pytest.fixture
def case(banked, images):
    return Case(banked, images)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_in_the_ball_counted_and_scored_by_the_detector(case, name):
    before = case.x.clone()
    found = case.run(name)
    chosen, detector = preset(name), case.detector
    assert torch.equal(case.x, before)
    reach = EPS[chosen.norm] + slack(EPS[chosen.norm], chosen.norm)
    for images in (found.x_adv, found.x_worst, found.x_pixel, found.x_order):
        assert images.shape == case.x.shape
        assert images.dtype == torch.float32
        assert not images.requires_grad
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1
        assert (distance(images, case.x, chosen.norm) <= reach).all()
    assert torch.equal(found.distance, distance(found.x_adv, case.x, chosen.norm))
    with torch.no_grad():
        for images, patch in (
            (case.x, found.clean_patch_scores),
            (found.x_adv, found.patch_scores),
            (found.x_worst, found.worst_patch_scores),
            (found.x_pixel, found.pixel_patch_scores),
            (found.x_order, found.order_patch_scores),
        ):
            assert torch.allclose(detector.patch_scores(images), patch, atol=1e-6)
        assert torch.equal(found.score, detector.aggregate(found.patch_scores))
        assert torch.equal(found.worst_score, detector.aggregate(found.worst_patch_scores))
    sign = 1 - 2 * case.label
    assert (sign * found.worst_score >= sign * found.clean_score).all()
    assert (sign * found.worst_score >= sign * found.score).all()
    assert torch.equal(found.success, (found.worst_score >= case.threshold) == (case.label == 0))
    if chosen.access in ("white", "transfer"):
        assert not torch.equal(found.x_adv, case.x)
    if "threshold" in chosen.needs:  # leaves alone what is across already
        assert (found.forward > 0).any()
    elif chosen.access == "white":
        assert (found.backward > 0).all()
        assert (found.forward >= found.backward).all()
    if chosen.access != "white":
        assert (found.backward == 0).all()
    if chosen.access in ("score", "decision"):
        assert (found.forward <= 600).all()
        assert (found.forward > 0).any()
    assert all(parameter.requires_grad for parameter in detector.parameters())
    assert all(parameter.grad is None for parameter in detector.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_another_batch_size_changes_rounding_only(case, name):
    whole = case.run(name)
    for i in range(0, 4, 2):
        part = case.run(name, rows=slice(i, i + 2))
        # steps along signs may part ways where a gradient entry is zero but for rounding
        assert torch.allclose(part.worst_score, whole.worst_score[i : i + 2], atol=2e-3)
        assert torch.equal(part.forward, whole.forward[i : i + 2])
        close = (part.x_adv - whole.x_adv[i : i + 2]).abs() < 1e-4
        # and a verdict on the boundary itself may be either one
        assert float(close.float().mean()) > (0.9 if preset(name).access != "decision" else 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_runs_repeat_exactly(case, name):
    one, two = case.run(name), case.run(name)
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(two, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("name", [name for name in NAMES if preset(name).needs])
def test_what_is_needed_is_asked_for(case, name):
    names = {"mask": "mask", "threshold": "threshold", "surrogate": "surrogate", "probe": "probe"}
    for need in preset(name).needs & set(names):
        with pytest.raises(InputError, match=f"{names[need]}: "):
            case.run(name, **{need: None})


@pytest.mark.parametrize("name", [name for name in NAMES if preset(name).objective == "several"])
def test_attacks_with_objectives_of_their_own_take_no_other(case, name):
    with pytest.raises(InputError, match=r"objective: attack .* has its own"):
        case.run(name, objective="image")


@pytest.mark.parametrize("name", NAMES)
def test_schedules_that_would_be_ignored_are_refused(case, name):
    refused = {"steps": 3, "step_size": 0.1, "random": True, "restarts": 2, "queries": 100}
    for option in set(refused) - preset(name).takes:
        with pytest.raises(
            InputError, match=f"{option}: attack '{name}' (does not take|is one step)"
        ):
            case.run(name, **{option: refused[option]})


@pytest.mark.parametrize("name", ["pgd10", "apgd", "mifgsm", "difgsm", "segpgd", "a3", "pgd_l1"])
def test_more_restarts_never_weaken_the_worst_case(case, name):
    sign = 1 - 2 * case.label
    options = {"steps": 4} | ({"random": True} if "random" in preset(name).takes else {})
    harms = [sign * case.run(name, restarts=n, **options).worst_score for n in (2, 4, 8)]
    assert (harms[1] >= harms[0] - 1e-6).all()
    assert (harms[2] >= harms[1] - 1e-6).all()


def test_nested_schedules_never_weaken_the_worst_case(case):
    """Of the same step size, the shorter run is the beginning of the longer one."""
    sign = 1 - 2 * case.label
    harms = [sign * case.run("pgd10", steps=n, step_size=0.02).worst_score for n in (1, 3, 10, 30)]
    for fewer, more in pairwise(harms):
        assert (more >= fewer - 1e-6).all()


@pytest.mark.parametrize("name", ["pgd10", "apgd", "adaptive", "autoattack"])
def test_precision_is_lowered_while_searching_only(case, name):
    found = case.run(name, precision=torch.bfloat16)
    sign = 1 - 2 * case.label
    assert found.patch_scores.dtype == torch.float32
    with torch.no_grad():
        again = case.detector.aggregate(case.detector.patch_scores(found.x_worst))
    assert torch.allclose(found.worst_score, again, atol=1e-6)
    assert (sign * found.worst_score >= sign * found.clean_score).all()
    full = case.run(name)
    assert not torch.equal(full.x_adv, found.x_adv)


def test_names_and_summaries():
    assert {
        "fgsm_probe", "fgsm", "pgd10", "pgd100", "pgd1000", "pgd_l2", "autoattack", "caa", "a3",
        "segpgd", "sea", "square", "spsa", "hopskipjump", "transfer", "adaptive",
    } <= set(PRESETS)  # fmt: skip
    assert all(PRESETS[name].name == name for name in PRESETS)
    assert len({preset(name).summary for name in NAMES}) == len(NAMES)
    assert all("\n" not in preset(name).summary for name in NAMES)
    for name in NAMES:
        ball = re.search("_(l[12])(_|$)", name)
        assert preset(name).norm == (ball[1] if ball else "linf")
