"""The table of all attack presets in docs/robustness.md, from the committed result files."""

from typing import Any

from markdown import table

BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"
TOLERANCE = 1e-3  # of the score's movement, relative: rounding of other batches


def cell(value: float | None, form: str = ".3f") -> str:
    """Format a figure, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def stronger(rows: list[dict[str, Any]]) -> list[str]:
    """Presets that `adaptive` does not reach, on any of the four figures of its ball."""
    found = []
    for ours in (row for row in rows if row["attack"].startswith("adaptive")):
        for row in rows:
            if (row["norm"], row["eps"]) != (ours["norm"], ours["eps"]) or "auroc" not in row:
                continue
            worse = [name for name in ("auroc", "pixel_auroc") if row[name] < ours[name] - 5e-4]
            worse += [
                name
                for name in ("moved_normal", "moved_anomalous")
                if row[name] > ours[name] * (1 + TOLERANCE)
            ]
            if worse:
                what = ", ".join(
                    f"{name.replace('_', ' ')} {row[name]:.4g} against {ours[name]:.4g}"
                    for name in worse
                )
                found.append(f"`{row['attack']}` ({what})")
    return found


def one(name: str, run: dict[str, Any]) -> list[str]:
    """The table of one detector on one data set."""
    study, rows = run["study"], run["figures"]
    lines = []
    for row in rows:
        title = f"{row['attack']}" + (f", {row['norm']} {row['eps']}" if row["norm"] else "")
        if "refused" in row:
            lines.append([title, *["-"] * 7])
            continue
        lines.append(
            [
                title,
                cell(row["auroc"]),
                cell(row["pixel_auroc"]),
                cell(row["moved_normal"], ".3g"),
                cell(row["moved_anomalous"], ".3g"),
                cell(row.get("forward"), ".0f"),
                cell(row.get("backward"), ".0f"),
                cell(row.get("seconds"), ".2f"),
            ]
        )
    columns = [
        "attack",
        *("image AUROC", "pixel AUROC", "normal moved", "anomalous moved"),
        *("forward", "backward", "s / image"),
    ]
    detector = {"knn": "AnomalyDINO on ResNet-18 features", "patchguard": "PatchGuard"}
    behind = stronger(rows)
    said = "Stronger than `adaptive` in something: " + "; ".join(behind) + "."
    return [
        f"#### {study['data']}, {detector.get(study['detector'], study['detector'])} ({name})",
        f"{study['image_size']} pixels, {study['normal']} normal and {study['anomalous']} "
        f"anomalous test images, {study['threads']} thread.",
        table(columns, lines),
        said
        if behind
        else "`adaptive` is at least as strong as every other preset in all figures.",
    ]


def attacks(documents: list[tuple[str, dict[str, Any]]], text: str) -> str:
    """Put the tables between the page's markers."""
    parts = []
    for title, document in documents:
        where = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
        parts.append(f"`benchmarks/results/{title}.json`; {document['date']}; {where}.")
        for name, run in document["sets"].items():
            parts += one(name, run)
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}"
