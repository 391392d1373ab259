import pytest
import torch

from robustad.attacks import PRESETS, attack, preset
from robustad.attacks.presets_blackbox import STANDARD, blackbox_preset
from robustad.attacks.projection import slack
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError

LABEL = torch.tensor([0, 1])


@pytest.fixture(scope="module")
def fitted():
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return AnomalyDINO("filters", image_size=32, top_fraction=2).fit(x[:2]), x[2:]


def test_each_is_listed_and_says_what_it_needs():
    assert [one.name for one in STANDARD] == [
        "square", "spsa", "hopskipjump", "fab", "transfer", "features", "guide",
    ]  # fmt: skip
    for one in STANDARD:
        assert preset(one.name) is PRESETS[one.name] is one
        assert one.norm == "linf"
    access = {one.name: one.access for one in STANDARD}
    assert [name for name in access if access[name] == "white"] == ["fab", "features", "guide"]
    needs = {one.name: set(one.needs) for one in STANDARD if one.needs}
    assert needs == {
        "hopskipjump": {"threshold"},
        "fab": {"threshold"},
        "transfer": {"surrogate"},
        "features": {"features"},
        "guide": {"features", "bank"},
    }


def test_numbers_are_queries_or_steps():
    assert "123 queries" in preset("square123").summary
    assert preset("square123_l2").norm == "l2"
    assert (preset("fab7_l2").steps, preset("fab").steps, preset("square").steps) == (7, 100, 0)
    assert blackbox_preset("pgd10") is None
    for name in ("square0", "hopskipjump_l1", "squares", "fab_image", "fab07", "fab\u0663"):
        with pytest.raises(InputError, match="attack: expected one of"):
            preset(name)


@pytest.mark.parametrize("suffix", ["", "_l2", "_l1"])
@pytest.mark.parametrize(
    "name", ["square60", "spsa300", "hopskipjump200", "fab5", "transfer3", "features5", "guide5"]
)
def test_every_one_runs_inside_the_ball_and_repeats_itself(fitted, name, suffix):
    detector, x = fitted
    if (name, suffix) == ("hopskipjump200", "_l1"):
        pytest.skip("not defined in l1")
    eps = {"": 8 / 255, "_l2": 1.0, "_l1": 10.0}[suffix]
    threshold = float(detector.aggregate(detector.patch_scores(x)).mean())
    options = {"label": LABEL, "attack": name + suffix, "eps": eps, "threshold": threshold}
    if name.startswith("transfer"):
        options["surrogate"] = detector
    one, two = attack(detector, x, **options), attack(detector, x, **options)
    assert torch.equal(one.x_adv, two.x_adv)
    assert (one.distance <= eps + slack(eps, suffix[1:] or "linf")).all()
    assert float(one.x_adv.min()) >= 0
    assert float(one.x_adv.max()) <= 1
    harm = (1 - 2 * LABEL) * (one.worst_score - one.clean_score)
    assert (harm >= 0).all()


@pytest.mark.parametrize(
    ("name", "option"),
    [("square", {"steps": 3}), ("fab", {"queries": 3}), ("guide", {"restarts": 2}),
     ("hopskipjump", {"step_size": 0.1}), ("features", {"random": True})],
)  # fmt: skip
def test_options_that_would_be_ignored_are_refused(fitted, name, option):
    detector, x = fitted
    [given] = option
    with pytest.raises(InputError, match=f"{given}: attack '{name}' does not take it"):
        attack(detector, x, label=LABEL, attack=name, threshold=0.1, **option)


def test_steps_queries_and_restarts_are_passed_on(fitted):
    detector, x = fitted
    # a threshold that cannot be reached: nothing is found, so nothing is searched
    fewer = attack(detector, x[:1], label=LABEL[:1], threshold=10.0, attack="fab", steps=2)
    more = attack(
        detector, x[:1], label=LABEL[:1], threshold=10.0, attack="fab", steps=2, restarts=2
    )
    assert int(more.backward) == 2 * int(fewer.backward) == 4
    short = attack(
        detector, x, label=LABEL, attack="spsa", queries=2000, steps=1, step_size=0.02, eps=0.1
    )
    assert short.forward.tolist() == [258, 258]
    assert float(short.distance.max()) == pytest.approx(0.02, abs=1e-5)
