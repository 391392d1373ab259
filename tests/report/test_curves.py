from robustad.evaluation.result import Check
from robustad.report import write_report
from robustad.report.curves import eps_figure, steps_figure


def with_radii(evaluation):
    """The same figures at a second radius."""
    more = evaluation.model_copy(deep=True)
    more.epsilons = [8 / 255, 2 / 255]
    for name, one in evaluation.conditions.items():
        more.conditions[name].eps = None if name == "clean" else 8 / 255
        if name != "clean":
            more.conditions[f"{name}@2/255"] = one.model_copy(update={"eps": 2 / 255})
    return more


def test_several_radii_give_a_figure(evaluation):
    drawn = eps_figure(with_radii(evaluation), "e1")
    worst = evaluation.conditions["worst_case"].metrics.auroc
    assert f"worst case: {evaluation.clean.metrics.auroc:.3f} at 0, {worst:.3f} at 2" in drawn
    assert eps_figure(evaluation, "e1") is None


def test_several_numbers_of_steps_give_a_figure(evaluation_of):
    many = evaluation_of(attacks=("fgsm", "pgd10", "pgd100"))
    assert "at 100" in steps_figure(many, "e1")
    assert steps_figure(evaluation_of(attacks=("fgsm", "pgd10")), "e1") is None


def test_the_report_names_what_fired_and_shows_one_radius_in_its_tables(evaluation, tmp_path):
    more = with_radii(evaluation)
    more.checks = [
        Check(name="randomised", fired=True, sentence="Scores differ by 0.1 <between> calls."),
        Check(name="train_mode", fired=False, sentence="All of it is in eval()."),
    ]
    more.conditions["fgsm"].forward = [3] * len(more.labels)
    more.conditions["fgsm"].backward = [2] * len(more.labels)
    text = write_report(more, tmp_path / "r.html").read_text()
    assert "<b>randomised:</b> Scores differ by 0.1 &lt;between&gt; calls." in text
    assert "All of it is in eval()." in text
    assert '<th scope="row">fgsm</th><td>3</td><td>2</td>' in text
    assert "Over the radius" in text
    assert "8/255, 2/255" in text
    assert "pgd10@2/255" not in text
