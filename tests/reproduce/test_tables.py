import numpy as np
import pytest

from robustad.evaluation import CalibrationReport, Condition, Evaluation, Measures, Metrics
from robustad.reproduce import Table, tables
from robustad.reproduce.published import SHOTS, TABLE_1, TABLE_2, TABLE_3
from robustad.reproduce.tables import mean


def condition(name, auroc, entropy=None):
    return Condition(
        name=name,
        score=[0.1, 0.2],
        metrics=Metrics(auroc=auroc, ap=0.5, f1_max=0.5, gmean_max=0.5),
        entropy_mean=entropy,
        raw_entropy_mean=0.6,
        flag_auroc=None if name == "clean" or entropy is None else 0.75,
    )


def evaluation(category, auroc, *, entropy=0.25, calibrated=True, eps=8 / 255):
    measures = Measures(ece_positive=0.1, ece_top_label=0.2, nll=0.3, brier=auroc / 10)
    report = CalibrationReport(
        calibrator={},
        names=[],
        score_threshold=0.1,
        entropy_threshold=0.5,
        before=measures,
        after=measures,
    )
    return Evaluation(
        method="m",
        dataset="d",
        category=category,
        names=["a", "b"],
        defects=["good", "hole"],
        labels=[0, 1],
        eps=eps,
        conditions={
            "clean": condition("clean", auroc, entropy),
            "fgsm": condition("fgsm", auroc / 2, None if entropy is None else entropy + 0.25),
        },
        calibration=report if calibrated else None,
    )


RUNS = {
    1: [evaluation("a", 0.9), evaluation("a", 0.7), evaluation("b", 0.4)],
    "full": [evaluation("a", 1.0)],
}


def rows_of(table):
    return {row[0]: row[1:] for row in table.rows}


def test_markdown():
    table = Table("A title", ["", "one", "two"], [["x", "1", "2"], ["y", "-", "4"]])
    assert table.markdown() == (
        "**A title**\n\n|  | one | two |\n| --- | ---: | ---: |\n| x | 1 | 2 |\n| y | - | 4 |\n"
    )


def test_mean_weighs_categories_not_runs():
    # (mean(.9, .7) + .4) / 2, and not (.9 + .7 + .4) / 3
    assert mean(RUNS[1], lambda e: e.clean.metrics.auroc) == pytest.approx(0.6)
    assert np.isnan(mean(RUNS[1], lambda e: None))
    assert np.isnan(mean([], lambda e: 1.0))
    some = mean(RUNS[1], lambda e: None if e.category == "b" else e.clean.metrics.auroc)
    assert some == pytest.approx(0.8)


def test_detection():
    table = tables(RUNS, "other")[0]
    assert table.columns == ["", "1-shot", "full"]
    assert "8/255" in table.title
    rows = rows_of(table)
    assert rows["AUROC, clean"] == ["60.00", "100.00"]
    assert rows["AUROC, fgsm"] == ["30.00", "50.00"]
    assert rows["F1 of calling everything anomalous"] == ["66.67", "66.67"]
    assert not any("published" in name or "pixel" in name for name in rows)
    other = tables({1: [evaluation("a", 0.9, eps=0.01)]}, "other")[0]
    assert "at 0.01," in other.title


def test_calibration():
    rows = rows_of(tables(RUNS, "other")[1])
    assert rows["ECE (positive), uncalibrated"] == ["1.000", "1.000"]
    assert rows["Brier, Platt"] == ["0.600", "1.000"]
    rows = rows_of(tables({2: [evaluation("a", 0.9, calibrated=False)]}, "visa")[1])
    assert rows["NLL, Platt"] == ["-"]
    assert rows["NLL, published Platt"] == ["4.261"]


def test_entropy():
    rows = rows_of(tables(RUNS, "mvtec")[2])
    assert rows["Platt, clean"] == ["0.250", "0.250"]
    assert rows["Platt, fgsm - clean"] == ["0.250", "0.250"]
    assert rows["Platt, published adversarial"] == ["0.490", "-"]
    assert rows["AUROC of entropy as a flag, fgsm"] == ["0.750", "0.750"]
    rows = rows_of(tables({1: [evaluation("a", 0.9, entropy=None)]}, "other")[2])
    assert rows["Platt, clean"] == rows["Platt, fgsm - clean"] == ["-"]


@pytest.mark.parametrize("name", ["mvtec", "visa"])
def test_published_figures_have_the_shape_of_the_study(name):
    assert SHOTS == (1, 2, 4, 8, 16)
    for table, scale in ((TABLE_1, 100), (TABLE_2, 10), (TABLE_3, np.log(2))):
        columns = [values for measure in table[name].values() for values in measure.values()]
        assert all(len(values) == 5 for values in columns)
        assert all(0 < value < scale for values in columns for value in values)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (TABLE_1["mvtec"]["auroc"]["adversarial"][2], 59.68),
        (TABLE_1["visa"]["ap"]["clean"][4], 94.26),
        (TABLE_1["mvtec"]["f1_max"]["adversarial"][0], 84.84),
        (TABLE_1["visa"]["gmean_max"]["adversarial"][3], 54.60),
        (TABLE_2["mvtec"]["ece_positive"]["before"][0], 4.261),
        (TABLE_2["visa"]["nll"]["after"][4], 3.657),
        (TABLE_3["visa"]["adversarial"]["before"][4], 0.654),
        (TABLE_3["mvtec"]["clean"]["after"][3], 0.081),
    ],
)
def test_published_figures_are_as_printed(value, expected):
    assert value == expected
