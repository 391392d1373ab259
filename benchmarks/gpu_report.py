"""What the GPU suite reads out of other tools' output, and the table it makes of it all."""

import re
from typing import Any
from xml.etree import ElementTree

from markdown import table

Result = dict[str, Any]


def parse_junit(text: str) -> dict[str, Any]:
    """Counts of passed, failed and skipped tests, and the failures' names."""
    cases = list(ElementTree.fromstring(text).iter("testcase"))
    failed, skipped = [], 0
    for case in cases:
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in kinds:
            skipped += 1
    passed = len(cases) - skipped - len(failed)
    return {"passed": passed, "failed": len(failed), "skipped": skipped, "failures": failed}


def parse_sanitizer(text: str) -> int | None:
    """Number of problems that compute-sanitizer found; None if it did not come to an end."""
    found = re.findall(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+)", text)
    return int(found[-1]) if found else None


def summarise(document: dict[str, Any], ceilings: dict[str, float]) -> list[Result]:
    """Medians, ratios and roofline fractions from pytest-benchmark's JSON.

    Parameters
    ----------
    document : dict
        `--benchmark-json`: in each group one benchmark an implementation (`params["impl"]`).
    ceilings : dict
        What the GPU was measured to do: `bf16_flops`, `fp32_flops`, `bytes` a second.

    Returns
    -------
    list of dict
        `group`, `impl`, `median` in seconds; `ratio`, how many times as long as the group's
        `robustad` it took (None without one); `of_flops` and `of_bytes`, the fraction reached of
        the ceiling of its dtype, where the benchmark says how much it does.
    """
    rows = []
    for one in document["benchmarks"]:
        info, median = one.get("extra_info", {}), one["stats"]["median"]
        half = info.get("dtype") in ("bfloat16", "float16")
        rows.append(
            {
                "group": one.get("group") or one["name"],
                "impl": (one.get("params") or {}).get("impl", one["name"]),
                "median": median,
                "of_flops": _fraction(
                    info.get("flops"), median, ceilings.get("bf16_flops" if half else "fp32_flops")
                ),
                "of_bytes": _fraction(info.get("bytes"), median, ceilings.get("bytes")),
                "extra_memory": info.get("extra_memory"),
            }
        )
    ours = {row["group"]: row["median"] for row in rows if row["impl"] == "robustad"}
    for row in rows:
        base = ours.get(row["group"])
        row["ratio"] = None if base is None else row["median"] / base
    return rows


def _fraction(amount: float | None, seconds: float, ceiling: float | None) -> float | None:
    return None if amount is None or not ceiling else amount / seconds / ceiling


def markdown(result: Result) -> str:
    """Lay out the whole result as a page."""
    parts = ["# GPU suite", _line(result.get("machine", {}))]
    steps = [
        [name, one["status"], f"{one['seconds']:.0f} s", str(one.get("note", ""))]
        for name, one in result.get("steps", {}).items()
    ]
    parts.append(table(["step", "status", "time", "note"], steps))
    ceilings = result.get("ceilings", {})
    if ceilings:
        parts.append(
            f"Measured ceilings: bf16 {ceilings['bf16_flops'] / 1e12:.0f} TFLOP/s, fp32 "
            f"{ceilings['fp32_flops'] / 1e12:.0f} TFLOP/s, memory "
            f"{ceilings['bytes'] / 1e12:.2f} TB/s."
        )
    rows = result.get("benchmarks", [])
    for group in dict.fromkeys(row["group"] for row in rows):
        cells = [
            [
                row["impl"],
                f"{1e3 * row['median']:.3f} ms",
                "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
                _percent(row["of_flops"]),
                _percent(row["of_bytes"]),
            ]
            for row in rows
            if row["group"] == group
        ]
        columns = ["", "median", "times as long as robustad", "of peak FLOP/s", "of bandwidth"]
        parts += [f"## {group}", table(columns, cells)]
    return "\n\n".join(parts) + "\n"


def _line(values: dict[str, Any]) -> str:
    return "; ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.0f}%"
