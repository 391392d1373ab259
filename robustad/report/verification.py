"""The box that says whether an ONNX export agrees with its detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from robustad.report.wording import ABSENT, flat, value_text


@dataclass(frozen=True)
class Comparison:
    """One output: its name, the largest difference, what is allowed, whether it is within."""

    name: str
    difference: str
    allowed: str
    within: bool | None


@dataclass(frozen=True)
class Box:
    """A verification ready to print.

    Attributes
    ----------
    passed : bool or None
        The verdict; None where none was given.
    comparisons : list of Comparison
        One line an output.
    failures : list of str
        What is wrong, in words.
    details : list of (str, str)
        All else that was given.
    """

    passed: bool | None
    comparisons: list[Comparison]
    failures: list[str]
    details: list[tuple[str, str]]

    @property
    def title(self) -> str:
        """Heading of the box."""
        if self.passed is None:
            return "ONNX export: compared"
        return "ONNX export: verified" if self.passed else "ONNX export: verification failed"


def verification_box(outcome: Mapping[str, Any]) -> Box:
    """Prepare what `robustad.export.Verification.to_dict` gives, or any mapping like it.

    Parameters
    ----------
    outcome : mapping
        `passed`, `differences` and `tolerances` by output, `failures`, `path`, `shapes`; each may
        be missing, and any other entry is printed as it is. A difference of None or infinity is
        one that has no number (NaN on one side).
    """
    rest = dict(outcome)
    passed = rest.pop("passed", None)
    differences, tolerances = rest.pop("differences", {}), rest.pop("tolerances", {})
    failures = [str(line) for line in rest.pop("failures", ())]
    if not rest.get("mismatches", True):
        del rest["mismatches"]
    if "path" in rest:
        rest = {"file": PurePath(rest.pop("path")).name, **rest}
    if "shapes" in rest:
        sizes = {"\N{MULTIPLICATION SIGN}".join(map(str, shape[1:])) for shape in rest["shapes"]}
        rest["shapes"] = f"{len(rest['shapes'])} batches of size {', '.join(sorted(sizes))}"
    return Box(
        passed=None if passed is None else bool(passed),
        comparisons=[
            _comparison(name, difference, tolerances.get(name))
            for name, difference in differences.items()
        ],
        failures=failures,
        details=[(name.replace("_", " "), text) for name, text in flat(rest)],
    )


def _comparison(name: str, difference: float | None, allowed: float | None) -> Comparison:
    known = difference is not None and difference < float("inf")
    return Comparison(
        name,
        value_text(difference) if known else "no number",
        ABSENT if allowed is None else value_text(allowed),
        None if allowed is None else bool(difference is not None and difference <= allowed),
    )
