import re

import numpy as np
import pytest

from robustad.calibration import RawScore
from robustad.report import figures
from robustad.report.svg import COLOURS, draw


def _texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def _alt(svg: str) -> str:
    return re.search('aria-label="([^"]*)"', svg)[1]


def _whole_numbers(texts: list[str]) -> list[int]:
    return [int(text) for text in texts if text.isdigit()]


def test_roc_names_every_area_and_draws_every_line(evaluation) -> None:
    svg = figures.roc(evaluation, "e1")
    for name, one in evaluation.conditions.items():
        assert f"{name.replace('_case', ' case')} {one.metrics.auroc:.3f}" in _alt(svg)
        colour, _, _ = figures.line_style(evaluation, name)
        assert f"stroke: var(--{colour})" in svg


def test_line_styles_of_many_attacks_differ(evaluation_of) -> None:
    evaluation = evaluation_of(attacks=tuple(f"attack{i}" for i in range(9)))
    styles = [figures.line_style(evaluation, name) for name in evaluation.conditions]
    assert len(set(styles)) == len(styles)
    assert {colour for colour, _, _ in styles} <= set(COLOURS)


def test_score_strips_count_the_images(evaluation) -> None:
    texts = _texts(figures.score_strips(evaluation, "e1"))
    labels = np.asarray(evaluation.labels)
    stacked = np.concatenate([evaluation.scores(name) for name in evaluation.conditions])
    edges = np.linspace(stacked.min(), stacked.max(), figures.BINS + 1)
    top = max(
        np.histogram(evaluation.scores(name)[labels == label], edges)[0].max()
        for name in evaluation.conditions
        for label in (0, 1)
    )
    assert _whole_numbers(texts).count(top) == 2 * len(evaluation.conditions)
    assert "threshold" in texts
    for name, one in evaluation.conditions.items():
        fpr, fnr = one.metrics.fpr, one.metrics.fnr
        assert name.replace("_case", " case") in texts
        assert f"false alarms {100 * fpr:.1f}%, missed {100 * fnr:.1f}%" in texts


def test_threshold_stands_at_its_score(evaluation) -> None:
    svg = figures.score_strips(evaluation, "e1")
    [x] = set(re.findall(r'd="M ([\d.]+) [\d.]+ L \1 [\d.]+ " [^>]*stroke-dasharray', svg))
    stacked = np.concatenate([evaluation.scores(name) for name in evaluation.conditions])
    low, high = stacked.min(), stacked.max()
    share = (evaluation.calibration.score_threshold - low) / (high - low)
    left, right = 72 * 0.36, 72 * (figures.WIDE - 0.05)
    margin = 0.01 / 1.02 * (right - left)
    assert float(x) == pytest.approx(left + margin + share * (right - left - 2 * margin), abs=0.05)


@pytest.mark.parametrize(("offset", "shown"), [(0.05, True), (-0.05, True), (50.0, False)])
def test_room_for_a_threshold_unless_it_lies_far_away(evaluation, offset: float, shown) -> None:
    one = evaluation.model_copy(deep=True)
    stacked = np.concatenate([one.scores(name) for name in one.conditions])
    end = stacked.max() if offset > 0 else stacked.min()
    one.calibration.score_threshold = float(end + offset)
    assert ("threshold" in _texts(figures.score_strips(one, "e1"))) == shown


def test_entropy_strips_tell_what_is_deferred(evaluation) -> None:
    texts = _texts(figures.entropy_strips(evaluation, "e1"))
    assert "flag" in texts
    for one in evaluation.conditions.values():
        assert f"deferred {100 * one.flag_rate:.1f}%" in texts
    none = evaluation.model_copy(deep=True)
    none.calibration.entropy_threshold = None
    assert "flag" not in _texts(figures.entropy_strips(none, "e1"))


def test_reliability_counts_every_image_once(evaluation) -> None:
    before, after = figures.reliability(evaluation, "e1")
    raw = RawScore().predict_proba(evaluation.scores())
    for svg, values in ((before, raw), (after, np.asarray(evaluation.clean.probability))):
        counts = np.histogram(values, np.linspace(0, 1, 11))[0]  # no value lies on an edge here
        drawn = [int(n) for n in re.findall(r"\((\d+)\)", _alt(svg))]
        assert drawn == counts[counts > 0].tolist()
        assert sum(drawn) == len(evaluation.labels)
        assert set(drawn) <= set(_whole_numbers(_texts(svg)))


def test_nothing_to_draw_without_calibrator(evaluation_of) -> None:
    evaluation = evaluation_of(calibrated=False)
    assert figures.reliability(evaluation, "e1") is None
    assert figures.entropy_strips(evaluation, "e1") is None
    texts = _texts(figures.score_strips(evaluation, "e1"))
    assert "threshold" not in texts
    assert f"AUROC {evaluation.clean.metrics.auroc:.3f}" in texts


@pytest.mark.parametrize("n", [1, 2])
def test_few_images_and_constant_scores(evaluation_of, n: int) -> None:
    evaluation = evaluation_of(n=n)
    for condition in evaluation.conditions.values():
        condition.score = [0.25] * len(evaluation.labels)
    assert "nan" not in figures.score_strips(evaluation, "e1").lower()
    assert "nan" not in figures.roc(evaluation, "e1").lower()
    before, _ = figures.reliability(evaluation, "e1")
    assert "(" + str(len(evaluation.labels)) + ")" in _alt(before)


def test_rounded_entropy_above_ln2_is_counted(evaluation) -> None:
    one = evaluation.model_copy(deep=True)
    one.clean.entropy = [float(np.log(2)) + 5e-7] * len(one.labels)
    assert _whole_numbers(_texts(figures.entropy_strips(one, "e1"))).count(24) > 0


def test_ids_follow_the_key_and_text_is_escaped() -> None:
    def paint(figure):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], "o-", color=COLOURS["ink"])
        axes.set_title("<b> & $x_2$")

    one, two = (draw(key, (2, 2), paint, alt='a "b" <c>') for key in ("e1-a", "e2-a"))
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (one, two)]
    assert all(name.startswith("e1-a-") for name in ids[0])
    assert ids[0] & ids[1] == set()
    assert set(re.findall(r'href="#([^"]+)"', one)) <= ids[0]
    assert "&lt;b&gt; &amp; $x_2$" in one
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in one
    assert one == draw("e1-a", (2, 2), paint, alt='a "b" <c>')
