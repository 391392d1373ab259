"""A certification as a section of a report, or as a page of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustad._files import write_text
from robustad._imports import require
from robustad.report.svg import COLOURS, draw
from robustad.report.wording import ABSENT, count, eps_text, flat, number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from robustad.certificates import Certification
    from robustad.certificates.result import CertifiedPoint, ErrorRates

SIZE = (5.6, 3.6)  # inches
STEPS = 255.0


@dataclass(frozen=True)
class CertificateRow:
    """One radius, ready to print."""

    radius: str
    certified: str
    attacked: str
    fpr: tuple[str, str]
    fnr: tuple[str, str]
    lost: str


@dataclass(frozen=True)
class CertificateSection:
    """A certification, ready to print."""

    subject: str
    verdict: str
    findings: list[str]
    figures: list[tuple[str, str, str]]
    rows: list[CertificateRow]
    attacked: bool
    angles: list[tuple[str, str, str, str]]
    measured: list[tuple[str, str, str, str, str]]
    angle_figure: str | None
    threshold: str
    settings: list[tuple[str, str]]
    command: str | None


def write_certificate_report(certification: Certification, path: str | Path) -> Path:
    """Write one HTML file that needs nothing else.

    Parameters
    ----------
    certification : Certification
        What to show.
    path : str or Path
        The file; written whole or not at all, its folder is created.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    MissingDependencyError
        If jinja2 or matplotlib is not installed (extra `report`).
    """
    jinja2 = require("jinja2", extra="report", purpose="HTML reports")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("certificate.html.jinja").render(
        certificate=certificate_section(certification), model=certification.model
    )
    write_text(path, text)
    return Path(path)


def certificate_section(one: Certification, key: str = "certificate") -> CertificateSection:
    """Prepare a certification for `certificate_section.html.jinja`."""
    attacked = any(point.attacked for point in one.points)
    features = one.features
    place = " / ".join(part for part in (one.dataset, one.category) if part) or "unnamed images"
    return CertificateSection(
        subject=f"{one.model} on {place}",
        verdict=_verdict(one),
        findings=_findings(one),
        figures=[
            (
                "AUROC",
                _auroc_figure(one, key),
                "Between the lines nobody knows: no attack gets below the certified one, and the "
                "attacks that were run got down to the other."
                if attacked
                else "No attack gets below the line. How much better things are than that, only "
                "attacks can tell.",
            ),
            (
                "Errors at the threshold",
                _rates_figure(one, key),
                f"At the threshold {one.thresholds[0]:.4g} ({one.threshold_source}). No attack "
                "gets above the certified lines.",
            ),
        ],
        rows=[_row(point) for point in one.points],
        attacked=attacked,
        angles=[]
        if features is None
        else [
            (
                _degrees(point.degrees),
                number(point.auroc),
                percent(point.rates[0].fpr),
                percent(point.rates[0].fnr),
            )
            for point in features.points
        ],
        measured=[]
        if features is None
        else [
            (m.attack, eps_text(m.eps), _degrees(m.median), _degrees(m.p99), _degrees(m.largest))
            for m in features.measured
        ],
        angle_figure=None if features is None else _angle_figure(one, key),
        threshold=f"{one.thresholds[0]:.4g}",
        settings=_settings(one),
        command=one.settings.get("command"),
    )


def _verdict(one: Certification) -> str:
    held = [point for point in one.points if point.auroc >= 0.5 and point.radius > 0]
    sure = f"with a confidence of at least {percent(one.confidence)}"
    if not held:
        return (
            f"Nothing useful is certified at these radii: clean, the smoothed detector has an "
            f"AUROC of {number(one.clean_auroc)}."
        )
    last = held[-1]
    return (
        f"Up to an l2 radius of {_radius(last.radius)} no attack brings the smoothed detector's "
        f"AUROC below {number(last.auroc)} on these images, {sure}; clean it is "
        f"{number(one.clean_auroc)}."
    )


def _findings(one: Certification) -> list[str]:
    found = [
        f"On clean images the detector has an AUROC of {number(one.base_auroc)} without noise, and "
        f"of {number(one.clean_auroc)} smoothed.",
        f"{one.n} noisy copies of standard deviation {one.sigma:g} bound a score up to a radius "
        f"of {_radius(one.reach)}; beyond, an image counts as lost.",
        "The radius is the l2 length of the change of the whole image. A change of 8/255 at every "
        "pixel is far longer (12.2 at 224 x 224): these figures say nothing about it.",
    ]
    if not one.simultaneous:
        together = count(len(one.images), "image")
        found.append(
            f"Each bound is wrong with a chance of at most {one.alpha:g}; the chance that any of "
            f"{together} has a wrong one is at most {percent(1 - one.confidence)}."
        )
    if one.violations:
        found.insert(
            0,
            f"{count(one.violations, 'attacked score')} left the certified interval, which should "
            "not happen: do not rely on these certificates before that is understood.",
        )
    elif any(point.attacked for point in one.points):
        found.insert(0, "No attack moved any score out of its certified interval.")
    return found


def _row(point: CertifiedPoint) -> CertificateRow:
    found = point.attacked

    def rates(name: str) -> tuple[str, str]:
        worst = percent(getattr(point.rates[0], name))
        return worst, ABSENT if found is None else percent(getattr(found.rates[0], name))

    return CertificateRow(
        radius=_radius(point.radius),
        certified=number(point.auroc),
        attacked=ABSENT if found is None else number(found.auroc),
        fpr=rates("fpr"),
        fnr=rates("fnr"),
        lost=str(point.abstained),
    )


def _auroc_figure(one: Certification, key: str) -> str:
    radii, certified, attacked = _curves(one, lambda point: point.auroc, lambda found: found.auroc)

    def paint(figure: Figure) -> None:
        axes = _axes(figure)
        axes.axhline(0.5, color=COLOURS["muted"], linewidth=0.8, alpha=0.6)
        if attacked:
            x, low = _steps(radii, certified)
            high = np.interp(x, radii, attacked)
            axes.fill_between(x, low, high, color=COLOURS["accent"], alpha=0.12, linewidth=0)
            _line(axes, radii, attacked, "attack-1", "o", "under attack")
        _line(axes, radii, certified, "worst", "s", "certified", steps=True)
        axes.plot(
            [0.0], [one.clean_auroc], "D", color=COLOURS["ink"], markersize=5, label="clean",
            clip_on=False, linestyle="none",
        )  # fmt: skip
        _reach(axes, one, radii)
        axes.set_ylabel("AUROC of images")
        _finish(axes)

    return draw(f"{key}-auroc", SIZE, paint, alt=_told("AUROC", radii, certified, attacked))


def _rates_figure(one: Certification, key: str) -> str:
    drawn = []
    for name, what, colour in (
        ("fpr", "false alarms", "normal"),
        ("fnr", "missed", "anomalous"),
    ):

        def rate(rates: list[ErrorRates], name: str = name) -> float:
            return float(getattr(rates[0], name))

        drawn.append(
            (what, colour, *_curves(one, lambda p: rate(p.rates), lambda f: rate(f.rates)))
        )

    def paint(figure: Figure) -> None:
        axes = _axes(figure)
        for what, colour, radii, certified, attacked in drawn:
            _line(axes, radii, certified, colour, "s", f"{what}, certified", steps=True)
            if attacked:
                _line(axes, radii, attacked, colour, "o", f"{what}, under attack", dashes=(3, 2))
        _reach(axes, one, drawn[0][2])
        axes.set_ylabel("share of the class")
        _finish(axes)

    told = "; ".join(_told(what, *curves) for what, _, *curves in drawn)
    return draw(f"{key}-rates", SIZE, paint, alt=told)


def _angle_figure(one: Certification, key: str) -> str | None:
    features = one.features
    if features is None or len(features.points) < 2:
        return None
    degrees = [point.degrees for point in features.points]
    values = [point.auroc for point in features.points]

    def paint(figure: Figure) -> None:
        axes = _axes(figure)
        axes.axhline(0.5, color=COLOURS["muted"], linewidth=0.8, alpha=0.6)
        _line(axes, degrees, values, "worst", "s", "certified for features", steps=True)
        for place, measured in enumerate(features.measured):
            colour = COLOURS[f"attack-{place % 4 + 1}"]
            if measured.p99 <= 1.05 * degrees[-1]:
                axes.axvline(
                    measured.p99, color=colour, linewidth=1.2, dashes=(3, 2),
                    label=f"{measured.attack} at {eps_text(measured.eps)}: 99% of patches",
                )  # fmt: skip
        axes.set_ylabel("AUROC of images")
        axes.set_xlabel("degrees by which features turn")
        _finish(axes)

    told = ", ".join(f"{v:.3f} at {d:g} degrees" for d, v in zip(degrees, values, strict=True))
    return draw(f"{key}-angles", SIZE, paint, alt=f"Certified AUROC over the angle: {told}.")


def _curves(
    one: Certification,
    certified: Callable[[CertifiedPoint], float],
    attacked: Callable[..., float],
) -> tuple[list[float], list[float], list[float]]:
    radii = [point.radius * STEPS for point in one.points]
    found = [point.attacked for point in one.points]
    return (
        radii,
        [certified(point) for point in one.points],
        [attacked(each) for each in found] if all(found) else [],
    )


def _axes(figure: Figure) -> Axes:
    width, height = SIZE
    left, bottom, right, top = 0.62, 0.5, 0.12, 0.12
    axes = figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    )
    axes.set_xlabel("l2 radius in steps of an 8-bit image")
    return axes


def _line(
    axes: Axes,
    x: list[float],
    y: list[float],
    colour: str,
    marker: str,
    label: str,
    *,
    dashes: tuple[float, ...] = (),
    steps: bool = False,
) -> None:
    """A line through points; certified ones hold from the point before on, in steps."""
    ends = _steps(x, y) if steps else (x, y)
    shown: dict[str, Any] = {"color": COLOURS[colour], "linewidth": 1.8, "markersize": 4.5}
    lines = [
        *axes.plot(*ends, clip_on=False, **shown),
        *axes.plot([], [], marker=marker, label=label, **shown),  # for the legend
    ]
    axes.plot(x, y, marker, clip_on=False, **shown)
    for line in lines if dashes else ():
        line.set_dashes(dashes)


def _steps(x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    """Corners of a line that has at once the value of the next point."""
    across = [x[0], *(value for value in x[:-1] for _ in range(2)), x[-1]]
    return across[1:], [y[0], *(value for value in y[1:] for _ in range(2))]


def _reach(axes: Axes, one: Certification, radii: list[float]) -> None:
    """A line where the draws end, if it is on the drawing."""
    if 0 < one.reach * STEPS < radii[-1]:
        axes.axvline(
            one.reach * STEPS, color=COLOURS["muted"], linewidth=1.0, dashes=(3, 2), label="reach"
        )


def _finish(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.grid(True)
    axes.legend(frameon=False, fontsize=8.5)


def _told(what: str, radii: list[float], certified: list[float], attacked: list[float]) -> str:
    parts = [
        f"{value:.3f}"
        + (f" ({attacked[place]:.3f} under attack)" if attacked else "")
        + f" at {r:g}/255"
        for place, (r, value) in enumerate(zip(radii, certified, strict=True))
    ]
    return f"Certified {what} over the l2 radius: {', '.join(parts)}."


def _degrees(angle: float) -> str:
    return f"{angle:.3g}\N{DEGREE SIGN}"


def _radius(radius: float) -> str:
    return f"{radius:.3g} ({eps_text(radius)})"


def _settings(one: Certification) -> list[tuple[str, str]]:
    rows = {
        "images": f"{sum(image.label == 0 for image in one.images)} normal, "
        f"{sum(image.label == 1 for image in one.images)} anomalous",
        "noise": f"{one.sigma:g}, clipped to [0, 1]",
        "copies an image": one.n,
        "alpha": one.alpha,
        "sides": one.sides,
        "all images at once": "yes" if one.simultaneous else "no",
        "certified is": "the median"
        if one.test_draws is None
        else f"the median of {one.test_draws} copies",
        "early stop": "yes" if one.early else "no",
        "denoiser": one.denoiser,
        "seed": one.seed,
        "thresholds": [f"{value:.5g}" for value in one.thresholds],
        "attacks": one.attacks,
        "detector": one.sha256,
        "seconds": one.seconds,
    }
    return flat(rows) + [
        (name, text) for name, text in flat(one.settings) if name not in ("command",)
    ]
