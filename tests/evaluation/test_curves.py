import pytest

from robustad.errors import InputError
from robustad.evaluation import Evaluation, eps_curves, evaluate, steps_curves


def test_curves_hold_the_conditions_by_rising_radius(redness, samples):
    radii = (0.03, 0.01, 0.06)
    found = evaluate(redness(), samples(0, 12), attacks=("fgsm", "pgd3"), eps=radii)
    curves = {curve.name: curve.points for curve in eps_curves(found)}
    assert list(curves) == ["fgsm", "pgd3", "worst_case"]
    for name, points in curves.items():
        assert [point.x for point in points] == [0.0, 0.01, 0.03, 0.06]
        assert points[0].auroc == found.clean.metrics.auroc
        for point in points[1:]:
            metrics = found.at(point.x)[name].metrics
            assert (point.auroc, point.interval) == (metrics.auroc, metrics.auroc_interval)
            assert point.pixel_auroc == metrics.pixel_auroc
    worst = [point.auroc for point in curves["worst_case"]]
    assert worst == sorted(worst, reverse=True)
    assert worst[-1] < worst[0]
    assert found.attacks == ["fgsm", "pgd3"]
    assert list(found.shown) == ["clean", "fgsm", "pgd3", "worst_case"]


def test_the_worst_case_of_a_ball_holds_that_of_a_smaller_one(redness, samples):
    """Whatever order the radii come in, and though each attack alone may do worse in a larger."""
    data = samples(0, 10)
    first = evaluate(redness(), data, attacks=("pgd2",), eps=(0.05, 0.02))
    other = evaluate(redness(), data, attacks=("pgd2",), eps=(0.02, 0.05))
    for eps in (0.02, 0.05):
        assert first.at(eps)["worst_case"].score == other.at(eps)["worst_case"].score
        assert (
            first.at(eps)["worst_case"].metrics.auroc == other.at(eps)["worst_case"].metrics.auroc
        )
    large, small = (first.at(eps)["worst_case"].score for eps in (0.05, 0.02))
    for label, a, b in zip(first.labels, large, small, strict=True):
        assert a <= b if label else a >= b


def test_steps_make_a_curve_of_each_objective(redness, samples):
    attacks = ("fgsm", "pgd2", "pgd6", "pgd3_flip", "pgd5_flip", "pgd4_l2")
    found = evaluate(redness(), samples(0, 8), attacks=attacks, eps=0.02)
    curves = {curve.name: [point.x for point in curve.points] for curve in steps_curves(found)}
    assert curves == {"pgd": [0.0, 1.0, 2.0, 6.0], "pgd_flip": [0.0, 3.0, 5.0]}
    assert eps_curves(found) == []
    two = evaluate(redness(), samples(0, 8), attacks=("fgsm", "pgd2"), eps=0.02)
    assert steps_curves(two) == []  # one step and some others are no curve


def test_other_radii_are_refused(redness, samples):
    found = evaluate(redness(), samples(0, 8), attacks=("fgsm",), eps=(8 / 255, 2 / 255))
    assert found.at(2 / 255)["fgsm"] is found.conditions["fgsm@2/255"]
    with pytest.raises(InputError, match="eps: expected one of 8/255, 2/255, got 4/255"):
        found.at(4 / 255)


def test_files_of_version_1_are_read(redness, samples, tmp_path):
    found = evaluate(redness(), samples(0, 8), attacks=("fgsm",))
    document = found.model_dump(mode="json")
    document["format"] = 1
    for name in ("epsilons", "checks", "hashes"):
        del document[name]
    for condition in document["conditions"].values():
        for name in ("eps", "worst_score", "chosen", "forward", "backward", "flags"):
            del condition[name]
        del condition["metrics"]["auroc_interval"]
    old = Evaluation.model_validate(document)
    old.save(tmp_path / "old.json")
    assert Evaluation.load(tmp_path / "old.json").attacks == ["fgsm"]
    assert (old.checks, eps_curves(old), steps_curves(old)) == ([], [], [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": ()}, "eps: expected at least one radius, got none"),
        ({"eps": (0.1, 0.0)}, "eps: expected a finite radius > 0, got 0"),
        ({"eps": (0.1, 0.1)}, "eps: expected each once, got 25.5/255 several times"),
        ({"attacks": ("fgsm", "fgsm")}, "attacks: expected each once, got fgsm several times"),
        ({"restarts": 0}, "restarts: expected >= 1, got 0"),
        ({"precision": "fp8"}, "precision: expected fp32 or bf16, got 'fp8'"),
    ],
)
def test_bad_plans(redness, samples, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(redness(), samples(0, 4), **{"attacks": ("fgsm",), **options})


def test_a_detector_in_training_mode_is_refused(redness, samples):
    with pytest.raises(InputError, match=r"in training mode; call detector\.eval\(\)"):
        evaluate(redness().train(), samples(0, 4), attacks=())


def test_bf16_searches_and_float32_scores(redness, samples):
    data = samples(0, 8)
    fine = evaluate(redness(), data, attacks=("pgd3",), eps=0.03)
    coarse = evaluate(redness(), data, attacks=("pgd3",), eps=0.03, precision="bf16")
    assert coarse.settings["precision"] == "bf16"
    assert coarse.clean == fine.clean.model_copy(update={"seconds": coarse.clean.seconds})
    worst = abs(coarse.scores("pgd3") - fine.scores("pgd3")).max()
    assert worst < 5e-3
