import numpy as np
import pytest

from robustad.metrics import aurc, risk_coverage
from robustad.report.coverage import curve_of, risk_figure, risk_rows
from robustad.report.wording import ABSENT


def test_curves_are_those_of_the_metrics(evaluation):
    p, labels = np.asarray(evaluation.clean.probability), np.asarray(evaluation.labels)
    coverage, risk = curve_of(evaluation, evaluation.clean)
    expected = risk_coverage(np.maximum(p, 1 - p), (p >= 0.5) != labels)
    np.testing.assert_array_equal(risk, expected.risk)
    assert coverage[-1] == 1.0
    assert risk.mean() == pytest.approx(aurc(p, labels))


def test_the_policys_threshold_makes_the_errors(evaluation_of):
    one = evaluation_of()
    one.calibration.threshold = 0.9
    p, labels = np.asarray(one.clean.probability), np.asarray(one.labels)
    assert curve_of(one, one.clean)[1][-1] == pytest.approx(((p >= 0.9) != labels).mean())


def test_rows_hold_errors_with_and_without_the_flag(evaluation):
    rows = {row[0]: row[1:] for row in risk_rows(evaluation)}
    assert list(rows) == ["clean", "fgsm_probe", "fgsm", "pgd10", "worst case"]
    p, entropy = (np.asarray(evaluation.clean.model_dump()[k]) for k in ("probability", "entropy"))
    wrong = (p >= 0.5) != np.asarray(evaluation.labels)
    kept = entropy <= evaluation.calibration.entropy_threshold
    assert rows["clean"][0] == f"{100 * wrong.mean():.1f}%"
    assert rows["clean"][1] == f"{100 * wrong[kept].mean():.1f}%"
    assert rows["clean"][2] == f"{aurc(p, evaluation.labels):.3f}"


def test_the_figure_draws_every_condition(evaluation):
    drawn = risk_figure(evaluation, "e1")
    assert drawn.startswith("<svg")
    assert "var(--worst)" in drawn
    assert "pgd10" in drawn  # in words, for those who do not see it
    assert drawn == risk_figure(evaluation, "e1")


def test_without_probabilities_or_a_flag(evaluation_of):
    plain = evaluation_of(calibrated=False)
    assert risk_figure(plain, "e1") is None
    assert risk_rows(plain) == []
    one = evaluation_of()
    one.calibration.entropy_threshold = None
    assert {row[2] for row in risk_rows(one)} == {ABSENT}
    one.calibration.entropy_threshold = 0.0  # defers everything
    assert {row[2] for row in risk_rows(one)} == {ABSENT}
    assert risk_figure(one, "e1") is not None
