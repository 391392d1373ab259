"""Two evaluations side by side, and whether they may be compared at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robustad.evaluation.leaderboard import Entry, Figures
from robustad.evaluation.result import CLEAN, WORST, eps_name

MEASURES = ("auroc", "ap", "fpr", "fnr", "pixel_auroc", "pixel_ap", "aupro")


@dataclass(frozen=True)
class Row:
    """One figure of both.

    Attributes
    ----------
    condition : str
        `clean`, an attack or `worst_case`, with its radius.
    measure : str
        Of `robustad.evaluation.Metrics`.
    first, second : float
        The figures.
    apart : bool or None
        For AUROC: whether the 95% intervals do not overlap; None for others.
    """

    condition: str
    measure: str
    first: float
    second: float
    apart: bool | None

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes
    ----------
    first, second : Entry
        What was compared.
    obstacles : list of str
        Why the figures may not be compared; empty if they may.
    remarks : list of str
        What to know beside.
    rows : list of Row
        All figures that both have.
    """

    first: Entry
    second: Entry
    obstacles: list[str]
    remarks: list[str]
    rows: list[Row]

    @property
    def comparable(self) -> bool:
        """Whether both measured the same thing."""
        return not self.obstacles


def compare(first: str | Path | Entry, second: str | Path | Entry) -> Comparison:
    """Compare two leaderboard entries or evaluation files.

    Parameters
    ----------
    first, second : path or Entry
        JSON files of `Entry.save` or `Evaluation.save`.

    Returns
    -------
    Comparison
        Other images, another radius or another norm make worst cases incomparable; attacks that
        only one of them faced make the other one look better. Intervals that overlap do not prove
        two detectors equal.

    Raises
    ------
    InputError, StateError
        As `Entry.load`.
    """
    a, b = (one if isinstance(one, Entry) else Entry.load(one) for one in (first, second))
    rows = []
    for row in a.figures:
        other = b.figure(row.condition, row.eps)
        if other is not None:
            rows += _rows(row, other)
    return Comparison(a, b, _obstacles(a, b), _remarks(a, b), rows)


def _rows(a: Figures, b: Figures) -> list[Row]:
    condition = a.condition if a.eps is None else f"{a.condition} at {eps_name(a.eps)}"
    rows = []
    for measure in MEASURES:
        x, y = getattr(a, measure), getattr(b, measure)
        if x is None or y is None:
            continue
        apart = None
        if measure == "auroc" and a.auroc_interval and b.auroc_interval:
            (low, high), (under, over) = a.auroc_interval, b.auroc_interval
            apart = high < under or over < low
        rows.append(Row(condition, measure, x, y, apart))
    return rows


def _obstacles(a: Entry, b: Entry) -> list[str]:
    found = []
    if a.data.sha256 != b.data.sha256:
        found.append(
            f"the images differ: {_images(a)} against {_images(b)}, with other contents"
            if _images(a) != _images(b)
            else f"the images differ in content ({_images(a)} in both)"
        )
    if a.threat_model.norm != b.threat_model.norm:
        norms = [", ".join(one.threat_model.norm) for one in (a, b)]
        found.append(f"the attacks' norms differ: {norms[0]} against {norms[1]}")
    if not _radii(a) & _radii(b):
        radii = [", ".join(sorted(_radii(one))) for one in (a, b)]
        found.append(f"no radius is common: {radii[0]} against {radii[1]}")
    alone = [sorted(_attacks(x) - _attacks(y)) for x, y in ((a, b), (b, a))]
    for which, names in zip(("first", "second"), alone, strict=True):
        if names:
            found.append(f"only the {which} faced {', '.join(names)}")
    return found


def _remarks(a: Entry, b: Entry) -> list[str]:
    found = []
    if a.detector.sha256 == b.detector.sha256:
        found.append("it is the same detector in both")
    if a.robustad != b.robustad:
        found.append(f"made by robustad {a.robustad} and {b.robustad}")
    for which, one in (("first", a), ("second", b)):
        fired = [check.name for check in one.checks if check.fired]
        if fired:
            found.append(f"the {which} is in doubt, these of its checks fired: {', '.join(fired)}")
    clean, worst = ([one.figure(condition) for one in (a, b)] for condition in (CLEAN, WORST))
    if all(clean) and all(worst):
        found.append(
            "worst-case AUROC "
            + " against ".join(f"{one.auroc:.3f}" for one in worst if one is not None)
            + ", clean "
            + " against ".join(f"{one.auroc:.3f}" for one in clean if one is not None)
        )
    return found


def _images(entry: Entry) -> str:
    data = entry.data
    name = "/".join(part for part in (data.name, data.category) if part) or "unnamed"
    return f"{name}, {data.normal} normal and {data.anomalous} anomalous"


def _radii(entry: Entry) -> set[str]:
    return {eps_name(eps) for eps in entry.threat_model.eps}


def _attacks(entry: Entry) -> set[str]:
    return {attack.name for attack in entry.attacks}
