import re

import numpy as np
import pytest

from robustad.calibration import Platt
from robustad.conformal import ConformalScores
from robustad.evaluation import ConformalReport, coverage
from robustad.evaluation.flags import attack_flags
from robustad.report import write_report
from robustad.report.headline import findings
from robustad.report.promises import flags, promise
from robustad.verdict import Policy


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.fixture
def promising(evaluation_of):
    """An evaluation with p-values and both flags; pgd10 raises the p-values' normal images."""
    made = evaluation_of()
    rng = np.random.default_rng(1)
    held_out = ConformalScores(0.3 + 0.06 * rng.normal(size=59))
    labels = np.asarray(made.labels)
    platt = Platt.from_dict(made.calibration.calibrator)
    for name, one in made.conditions.items():
        raised = 0.5 * (1 - labels) * (name in ("pgd10", "worst_case"))
        one.p_value = held_out.p_values(np.asarray(one.score) + raised).tolist()
        one.attack_flags = attack_flags(
            np.asarray(one.score), labels, calibrator=platt, conformal=held_out,
            policy=Policy(entropy_threshold=0.6), clean=None if name == "clean" else made.scores(),
        )  # fmt: skip
    made.conformal = ConformalReport(
        scores=held_out.to_dict(), names=["a.png"], guarantee=held_out.guarantee
    )
    return made


def test_the_promise_of_each_condition(promising):
    found = promise(promising, "e1")
    assert found.facts.startswith(
        "59 held-out normal images: p-values of 0.0167 and more; a normal image like the held-out"
    )
    assert found.rates == ["promised 5.0%", "promised 10.0%"]
    assert [name for name, _ in found.rows] == [
        *("clean", "fgsm_probe", "fgsm", "pgd10", "worst case"),
    ]
    for (_, cells), name in zip(found.rows, promising.shown, strict=True):
        for (text, broken), one in zip(
            cells, coverage(promising, name, alphas=[0.05, 0.1]), strict=True
        ):
            assert text == f"{100 * one.realised:.1f}%"
            assert broken == (one.realised > one.high)
    assert "p-value" in texts(found.histogram)
    normal = np.asarray(promising.labels) == 0
    low = np.asarray(promising.clean.p_value) <= 0.05
    note = f"at most 5%: normal {100 * low[normal].mean():.1f}%, anomalous "
    assert any(text.startswith(note) for text in texts(found.histogram))
    assert "promised false alarm rate" in texts(found.coverage)
    assert found.coverage.count("<path") > 5


def test_the_flags_of_each_condition(promising):
    found = flags(promising, "e1")
    assert [title for title, _ in found.curves] == found.names
    assert found.names == ["unsure (entropy)", "too normal (low p-value)"]
    assert [name for name, _ in found.rows] == ["clean", "fgsm_probe", "fgsm", "pgd10"]
    clean, attacked = dict(found.rows)["clean"], dict(found.rows)["pgd10"]
    assert clean[0][3:] == ["\N{EN DASH}", "\N{EN DASH}"]
    flag = promising.conditions["pgd10"].attack_flags["too_normal"]
    assert attacked[1] == [
        f"{100 * flag.rate:.1f}%", f"{100 * flag.rate_normal:.1f}%",
        f"{100 * flag.rate_anomalous:.1f}%", f"{flag.auroc:.3f}", f"{flag.auroc_anomalous:.3f}",
    ]  # fmt: skip
    for (_, drawn), name in zip(found.curves, ("entropy", "too_normal"), strict=True):
        area = promising.conditions["fgsm"].attack_flags[name].auroc
        assert f"fgsm {area:.3f}" in drawn


def test_a_page_with_both(promising, tmp_path):
    text = write_report(promising, tmp_path / "r.html").read_text()
    for title in ("Are promised error rates kept?", "Is an attack noticed?"):
        assert title in text
    assert "<td>100.0% broken</td>" in text
    assert "<dt>p-values</dt>" in text
    again = write_report(promising, tmp_path / "s.html").read_text()
    assert text == again


def test_sentences(promising, evaluation_of):
    [told] = [text for text in findings(promising) if "promised" in text]
    [clean] = coverage(promising, alphas=[0.05])
    [worst] = coverage(promising, "worst_case", alphas=[0.05])
    assert told == (
        "At most 5.0% false alarms are promised from 59 held-out normal images: on clean images "
        f"there are {100 * clean.realised:.1f}% (kept) and {100 * worst.realised:.1f}% in the "
        "worst case: no promise holds under attack."
    )
    assert not any("promised" in text for text in findings(evaluation_of()))


def test_too_few_held_out_images_promise_nothing(promising):
    few = ConformalScores([0.2, 0.3, 0.25, 0.31, 0.28])
    for one in promising.conditions.values():
        one.p_value = few.p_values(np.asarray(one.score)).tolist()
    promising.conformal.scores = few.to_dict()
    [told] = [text for text in findings(promising) if "promise" in text]
    assert told == (
        "No threshold from 5 held-out normal images can promise at most 5.0% false alarms: it "
        "takes 19."
    )
    found = promise(promising, "e1")
    assert found.facts.startswith("5 held-out normal images: p-values of 0.167 and more; ")
    assert {cell for _, cells in found.rows for cell in cells} == {("no alarm possible", False)}


def test_evaluations_without_either(evaluation_of, tmp_path):
    plain = evaluation_of()
    assert promise(plain, "e1") is None
    assert flags(plain, "e1") is None
    text = write_report(plain, tmp_path / "r.html").read_text()
    assert "Is an attack noticed?" not in text
    assert "Are promised error rates kept?" not in text


def test_clean_passes_alone_have_no_flags_to_judge(promising):
    del promising.conditions["fgsm_probe"], promising.conditions["fgsm"]
    del promising.conditions["pgd10"], promising.conditions["worst_case"]
    assert flags(promising, "e1") is None
    found = promise(promising, "e1")
    assert [name for name, _ in found.rows] == ["clean"]
    assert "<svg" in found.coverage
