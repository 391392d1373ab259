"""Numbers and names as a report prints them."""

from collections.abc import Mapping
from typing import Any

from robustad.attacks import preset
from robustad.errors import InputError
from robustad.evaluation import Evaluation
from robustad.evaluation.result import CLEAN, WORST

ABSENT = "\N{EN DASH}"


def number(value: float | None) -> str:
    """Three decimals, or a dash.

    Examples
    --------
    >>> number(0.98765), number(None) == ABSENT
    ('0.988', True)
    """
    return ABSENT if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Share as a percentage with one decimal, or a dash.

    Examples
    --------
    >>> percent(0.0512), percent(1.0), percent(None) == ABSENT
    ('5.1%', '100.0%', True)
    """
    return ABSENT if value is None else f"{100.0 * value:.1f}%"


def eps_text(eps: float) -> str:
    """Radius in steps of an 8-bit image.

    Examples
    --------
    >>> eps_text(8 / 255), eps_text(0.01)
    ('8/255', '2.55/255')
    """
    return f"{eps * 255:.4g}/255"


def count(n: int, noun: str) -> str:
    """Count with its noun, in the plural where due.

    Examples
    --------
    >>> count(1, "image"), count(2, "image")
    ('1 image', '2 images')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def condition_name(name: str) -> str:
    """Name of a condition as printed."""
    return "worst case" if name == WORST else name


def condition_summary(name: str) -> str:
    """Say in one line what happens to the images in a condition."""
    if name == CLEAN:
        return "images as they are"
    if name == WORST:
        return "per image the worst score of all passes"
    try:
        return preset(name).summary
    except InputError:
        return "attack"


def objective(name: str) -> str:
    """What an attack maximises: `probe`, `image`, ..., or nothing where it is no preset."""
    try:
        return preset(name).objective
    except InputError:
        return ""


def place(evaluation: Evaluation) -> str:
    """Say what was evaluated on."""
    known = [part for part in (evaluation.dataset, evaluation.category) if part]
    return " / ".join(known) or "unnamed images"


def subject(evaluation: Evaluation) -> str:
    """Say what was evaluated on what."""
    return f"{evaluation.method} on {place(evaluation)}"


def value_text(value: object) -> str:
    """Any value of a settings table.

    Examples
    --------
    >>> value_text(0.123456), value_text(["a", 2]), value_text([]), value_text(None)
    ('0.1235', 'a, 2', 'none', 'none')
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "none"
    return "none" if value is None else str(value)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted names with printable values.

    Examples
    --------
    >>> flat({"a": 1, "b": {"c": 2.5}})
    [('a', '1'), ('b.c', '2.5')]
    """
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value_text(value)))
    return rows
