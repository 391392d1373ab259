"""Matplotlib figures as SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from robustad._imports import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Matplotlib draws with stand-in colours; they become CSS variables, so that one drawing serves
# light, dark and print. Stand-ins must be unlike any colour drawn by accident (black, white).
NAMES = (
    "ink",
    "muted",
    "grid",
    "panel",
    "normal",
    "anomalous",
    "attack-1",
    "attack-2",
    "attack-3",
    "attack-4",
    "worst",
    "accent",
)
COLOURS = {name: f"#0a0b{16 + index:02x}" for index, name in enumerate(NAMES)}
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a name is a "$"
    "font.size": 9.0,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.linewidth": 0.7,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
}


def draw(key: str, size: tuple[float, float], paint: Callable[[Figure], None], *, alt: str) -> str:
    """Draw one figure.

    Parameters
    ----------
    key : str
        Unique on the page, letters, digits and `-`; keeps the ids of two drawings apart.
    size : (width, height), inches
        Natural size, shown at 96 pixels an inch at most.
    paint : callable
        Draws on the figure it is given, with `COLOURS`.
    alt : str
        What a reader who does not see the figure is told.

    Returns
    -------
    str
        An `<svg>` element for use inside HTML. The same drawing gives the same text.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    matplotlib = require("matplotlib", extra="report", purpose="HTML reports")
    figure_class = require("matplotlib.figure", extra="report", purpose="HTML reports").Figure
    buffer = io.StringIO()
    # From the defaults: a user's matplotlibrc must not change a report. No pyplot, no open window.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_SETTINGS, "svg.hashsalt": key})
        figure = figure_class(figsize=size)
        paint(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _themed(buffer.getvalue(), key, size, alt)


def _themed(text: str, key: str, size: tuple[float, float], alt: str) -> str:
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    # Ids are unique in one drawing only: drop those nothing refers to, prefix the others.
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", body))
    body = re.sub(
        r' id="([^"]*)"',
        lambda found: f' id="{key}-{found[1]}"' if found[1] in used else "",
        body,
    )
    body = re.sub(r"(url\(|href=\")#", rf"\1#{key}-", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = re.sub(r' (?:d|x|y|transform|width|height)="[^"]*"', _shorter, body)
    body = re.sub(r"\s*\n\s*", " ", body).replace("> <", "><")
    width, height = size
    return (
        f'<svg class="plot" role="img" aria-label="{escape(alt)}" '
        f'viewBox="0 0 {72 * width:g} {72 * height:g}" '
        f'style="max-width:{96 * width:g}px">' + body.strip()
    )


def _shorter(attribute: re.Match[str]) -> str:
    """Hundredths of a point are enough, and half the size."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0])
