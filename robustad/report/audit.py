"""An audit as one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path

from robustad._files import write_text
from robustad._imports import require
from robustad.evaluation.audit_result import Audit
from robustad.report.wording import eps_text

LEVELS = {
    "open": "The verdict can be flipped",
    "partly open": "Some verdicts can be flipped",
    "held": "No verdict flipped",
    "unknown": "There is no verdict to flip",
}


def write_audit_report(audit: Audit, path: str | Path) -> Path:
    """Write one HTML file that needs nothing else.

    Parameters
    ----------
    audit : Audit
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
        If jinja2 is not installed (extra `report`).
    """
    jinja2 = require("jinja2", extra="report", purpose="HTML reports")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["radius"] = eps_text
    radii = [
        (eps_text(eps), "-" if audit.threshold is None else audit.flipped(eps), audit.push(place))
        for place, eps in enumerate(audit.eps)
    ]
    # The images that fell first come first, those that held last.
    order = sorted(
        audit.images, key=lambda one: float("inf") if one.flips_at is None else one.flips_at
    )
    text = environment.get_template("audit.html.jinja").render(
        audit=audit, title=LEVELS[audit.level], verdict=audit.verdict(), radii=radii, images=order
    )
    write_text(path, text)
    return Path(path)
