"""From evaluations to one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustad._files import write_text
from robustad._imports import require
from robustad.errors import InputError
from robustad.evaluation import Evaluation, Example
from robustad.evaluation.result import CLEAN, WORST
from robustad.report import figures
from robustad.report.certificate import certificate_section
from robustad.report.coverage import risk_figure, risk_rows
from robustad.report.curves import eps_figure, steps_figure
from robustad.report.gallery import Card, amplification, cards, colour_stops
from robustad.report.headline import findings, overview, verdict
from robustad.report.promises import Flags, Promise, flags, promise
from robustad.report.summary import (
    Gauge,
    Intervals,
    Table,
    conditions_table,
    gauges,
    images_text,
    intervals_of,
    overview_table,
)
from robustad.report.verification import verification_box
from robustad.report.wording import condition_name, count, eps_text, flat, number, percent, subject

if TYPE_CHECKING:
    from robustad.certificates import Certification

Examples = Sequence[Example] | Mapping[str, Sequence[Example]]


@dataclass(frozen=True)
class LegendLine:
    """One entry of the ROC legend: how the line looks and what it is."""

    name: str
    auroc: str
    colour: str
    dashes: str


@dataclass(frozen=True)
class Section:
    """One evaluation, ready to print."""

    key: str
    evaluation: Evaluation
    subject: str
    facts: str
    verdict: str
    findings: list[str]
    gauges: list[Gauge]
    table: Table
    perfect: bool
    roc: str
    legend: list[LegendLine]
    attack_lines: list[LegendLine]
    scores: str
    reliability: tuple[str, str] | None
    entropy: str | None
    entropies: list[tuple[str, str, str, str]]
    flags: Flags | None
    promise: Promise | None
    risk: str | None
    risks: list[tuple[str, str, str, str]]
    curves: list[tuple[str, str]]
    costs: list[tuple[str, str, str, str]]
    cards: list[Card]
    outlined: bool
    factor: int
    settings: list[tuple[str, str]]


def write_report(
    evaluations: Evaluation | Sequence[Evaluation],
    path: str | Path,
    *,
    examples: Examples = (),
    title: str | None = None,
    verification: Mapping[str, Any] | None = None,
    certification: Certification | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write one HTML file that needs nothing else: no script, no font, no image from outside.

    Parameters
    ----------
    evaluations : Evaluation or sequence of Evaluation
        What to show. With several, a summary table comes first and each has its own part.
    path : str or Path
        The file; written whole or not at all, its folder is created.
    examples : sequence of Example, or mapping of str to such, optional
        Images for the gallery, see `robustad.evaluation.collect_examples`. With several
        evaluations a mapping, whose keys name them: `category`, or `method/category`,
        `dataset/category` or `method/dataset/category` where that is not unique.
    title : str, optional
        Heading of the page; by default what was evaluated on what.
    verification : mapping, optional
        Outcome of the check of an ONNX export, as `robustad.export.Verification.to_dict` gives it:
        `passed`, `differences` and `tolerances` by output, `failures`, and anything else.
    certification : Certification, optional
        What `robustad.certificates.certify` found, as a section of its own at the end.
    notes : sequence of str, optional
        Paragraphs to print at the top.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InputError
        If there is no evaluation, one lacks its clean pass, the examples cannot be told apart, or
        `path` is a folder.
    MissingDependencyError
        If jinja2 or matplotlib is not installed (extra `report`).

    Notes
    -----
    The same arguments give the same bytes. All figures are those of the evaluation or are
    computed from its scores; the 95% intervals are a seeded bootstrap over images.
    """
    jinja2 = require("jinja2", extra="report", purpose="HTML reports")
    require("matplotlib", extra="report", purpose="HTML reports")
    chosen = [evaluations] if isinstance(evaluations, Evaluation) else list(evaluations)
    if not chosen:
        raise InputError("evaluations: expected at least one, got none")
    for one in chosen:
        if CLEAN not in one.conditions:
            raise InputError(
                f"evaluations: expected the condition 'clean' in each, {subject(one)} has "
                f"{', '.join(one.conditions) or 'none'}"
            )
    shown = _assigned(examples, chosen)
    intervals = [intervals_of(one) for one in chosen]
    sections = [
        _section(f"e{index}", one, ends, some)
        for index, (one, ends, some) in enumerate(zip(chosen, intervals, shown, strict=True), 1)
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["marked"] = _marked
    text = environment.get_template("report.html.jinja").render(
        title=title or (sections[0].subject if len(chosen) == 1 else "Robustness report"),
        sections=sections,
        overview=overview(chosen),
        overview_table=overview_table(chosen, intervals) if len(chosen) > 1 else None,
        box=None if verification is None else verification_box(verification),
        certificate=None if certification is None else certificate_section(certification),
        notes=[notes] if isinstance(notes, str) else list(notes),
        colour_stops=colour_stops(),
    )
    write_text(path, text)
    return Path(path)


def _section(
    key: str, evaluation: Evaluation, intervals: Intervals, examples: Sequence[Example]
) -> Section:
    legend = []
    for name, condition in evaluation.shown.items():
        colour, dashes, _ = figures.line_style(evaluation, name)
        pattern = " ".join(f"{2 * length:g}" for length in dashes)
        legend.append(
            LegendLine(condition_name(name), number(condition.metrics.auroc), colour, pattern)
        )
    return Section(
        key=key,
        evaluation=evaluation,
        subject=subject(evaluation),
        facts=_facts(evaluation),
        verdict=verdict(evaluation),
        findings=findings(evaluation),
        gauges=gauges(evaluation, intervals),
        table=conditions_table(evaluation, intervals),
        perfect=any(low == high for low, high in intervals.values()),
        roc=figures.roc(evaluation, key),
        legend=legend,
        attack_lines=[
            line
            for line, name in zip(legend, evaluation.shown, strict=True)
            if name not in (CLEAN, WORST)
        ],
        scores=figures.score_strips(evaluation, key),
        reliability=figures.reliability(evaluation, key),
        entropy=figures.entropy_strips(evaluation, key),
        entropies=[
            (
                condition_name(name),
                number(one.raw_entropy_mean),
                number(one.entropy_mean),
                percent(one.flag_rate),
            )
            for name, one in evaluation.shown.items()
        ],
        flags=flags(evaluation, key),
        promise=promise(evaluation, key),
        risk=risk_figure(evaluation, key),
        risks=risk_rows(evaluation),
        curves=[
            (title, drawn)
            for title, drawn in (
                ("Over the radius", eps_figure(evaluation, key)),
                ("Over the steps", steps_figure(evaluation, key)),
            )
            if drawn is not None
        ],
        costs=_costs(evaluation),
        cards=cards(examples, evaluation),
        outlined=any(one.mask is not None and one.mask.any() for one in examples),
        factor=amplification(evaluation.eps),
        settings=_settings(evaluation),
    )


def _marked(text: str) -> Any:
    """HTML of a sentence with its figures emphasised."""
    markup = require("markupsafe", extra="report", purpose="HTML reports")
    escaped = str(markup.escape(text))
    return markup.Markup(re.sub(r"\b\d\.\d{3}\b", r"<b>\g<0></b>", escaped))


def _facts(evaluation: Evaluation) -> str:
    images = f"{images_text(evaluation)} images"
    if not evaluation.attacks:
        return images
    return f"{images}; attacks change no pixel by more than {eps_text(evaluation.eps)}"


def _costs(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    """Name of each attack, mean passes an image forward and backward, seconds an image."""
    images = max(1, len(evaluation.labels))
    return [
        (name, f"{sum(one.forward) / images:.4g}", f"{sum(one.backward or []) / images:.4g}",
         f"{one.seconds / images:.3g}")
        for name, one in evaluation.shown.items()
        if name not in (CLEAN, WORST) and one.forward
    ]  # fmt: skip


def _assigned(examples: Examples, evaluations: Sequence[Evaluation]) -> list[Sequence[Example]]:
    """Examples of each evaluation."""
    if not isinstance(examples, Mapping):
        if len(evaluations) > 1 and len(examples):
            raise InputError(
                f"examples: expected a mapping from category to examples for {len(evaluations)} "
                f"evaluations, got a plain sequence of {len(examples)}"
            )
        return [examples, *([] for _ in evaluations[1:])]
    assigned: list[Sequence[Example]] = [[] for _ in evaluations]
    for name, some in examples.items():
        found = [index for index, one in enumerate(evaluations) if name in _keys(one)]
        if len(found) != 1:
            known = ", ".join(sorted({"/".join(_parts(one)) for one in evaluations}))
            raise InputError(
                f"examples: expected keys that name one evaluation each ({known}), "
                f"{name!r} names {len(found)}"
            )
        assigned[found[0]] = some
    return assigned


def _parts(evaluation: Evaluation) -> tuple[str, str, str]:
    return evaluation.method, evaluation.dataset, evaluation.category


def _keys(evaluation: Evaluation) -> set[str]:
    method, dataset, category = _parts(evaluation)
    return {
        category,
        f"{method}/{category}",
        f"{dataset}/{category}",
        f"{method}/{dataset}/{category}",
    }


def _settings(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What determined the result, from the most to the least important."""
    rows = [("images", images_text(evaluation))]
    if evaluation.attacks:
        which = "l-infinity radius of all attacks, l2 where their name says so"
        radii = ", ".join(eps_text(eps) for eps in evaluation.epsilons or [evaluation.eps])
        rows.append((f"eps ({which})", radii))
    report = evaluation.calibration
    if report is None:
        rows.append(("calibration", "none"))
    else:
        fitted = count(len(report.names), "image") if report.names else "came fitted"
        rows.append(("calibration", f"{report.calibrator.get('method', '?')}, {fitted}"))
        limit = report.score_threshold
        rows.append(("score threshold", "none" if limit is None else f"{limit:.4g}"))
        if report.entropy_threshold is not None:
            rows.append(("entropy flag", f"{report.entropy_threshold:.4g} nats"))
    if evaluation.conformal is not None:
        scores = evaluation.conformal.scores
        rows.append(("p-values", f"{scores['method']}, {count(len(scores['normal']), 'image')}"))
    for name, condition in evaluation.shown.items():
        if name != WORST and condition.seconds > 0.0:
            each = condition.seconds / max(1, len(evaluation.labels))
            rows.append((f"time an image, {name}", f"{each:.3g} s"))
        if name not in (CLEAN, WORST):
            rows.append((f"largest change, {name}", eps_text(condition.distance)))
    return rows + [(name, text) for name, text in flat(evaluation.settings) if name != "command"]
