"""What the table of conditions shows, and what each column means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from robustad.evaluation import Condition
from robustad.report.wording import number, percent


@dataclass(frozen=True, kw_only=True)
class Heading:
    """Head of a column: its title, what stands smaller below that, what it means."""

    title: str
    small: str = ""
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class Column(Heading):
    """A column of conditions: its head, and how to read a cell off a condition."""

    value: Callable[[Condition], float | None]
    text: Callable[[float | None], str] = number


def column_groups(floor: float) -> list[tuple[str, list[Column]]]:
    """All columns under their group's heading; `floor` is the trivial F1 of these images."""
    return [
        (
            "Ranking of images",
            [
                Column(
                    title="AUROC",
                    meaning="chance that an anomalous image scores above a normal one; 0.5 is "
                    "guessing. Below it the 95% interval: images drawn anew 1000 times, with "
                    "replacement",
                    value=lambda c: c.metrics.auroc,
                    small="95% interval",
                ),
                Column(
                    title="AP",
                    meaning="average precision: area under the precision-recall curve",
                    value=lambda c: c.metrics.ap,
                ),
                Column(
                    title="F1-max",
                    meaning="best F1 over all thresholds, chosen with the labels known. Calling "
                    f"every image anomalous gets {number(floor)} here: read it against that",
                    value=lambda c: c.metrics.f1_max,
                    small=f"floor {number(floor)}",
                ),
                Column(
                    title="G-mean",
                    meaning="best geometric mean of the shares of both classes that are called "
                    "right; 0 if everything is called the same",
                    value=lambda c: c.metrics.gmean_max,
                ),
            ],
        ),
        (
            "Fixed threshold",
            [
                Column(
                    title="FPR",
                    meaning="false alarms: share of normal images called anomalous, at the "
                    "threshold fixed on clean calibration images",
                    value=lambda c: c.metrics.fpr,
                    text=percent,
                ),
                Column(
                    title="FNR",
                    meaning="misses: share of anomalous images called normal, same threshold",
                    value=lambda c: c.metrics.fnr,
                    text=percent,
                ),
            ],
        ),
        (
            "Localisation",
            [
                Column(
                    title="px AUROC",
                    meaning="AUROC over pixels, of the images that have a mask",
                    value=lambda c: c.metrics.pixel_auroc,
                ),
                Column(
                    title="AUPRO",
                    meaning="share of each defect region found, averaged over false alarms up to "
                    "30% of the pixels",
                    value=lambda c: c.metrics.aupro,
                ),
            ],
        ),
        (
            "Uncertainty",
            [
                Column(
                    title="entropy",
                    meaning="mean predictive entropy in nats: 0 is certain, 0.693 a coin toss",
                    value=lambda c: c.entropy_mean,
                ),
                Column(
                    title="deferred",
                    meaning="share of images whose entropy is above the flag, left to a person",
                    value=lambda c: c.flag_rate,
                    text=percent,
                ),
                Column(
                    title="flag AUROC",
                    meaning="chance that an attacked image has a higher entropy than a clean one; "
                    "below 0.5 the attack makes the detector more certain",
                    value=lambda c: c.flag_auroc,
                ),
            ],
        ),
    ]
