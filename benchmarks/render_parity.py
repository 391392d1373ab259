"""The parity table of docs/deploy.md, from the committed result files."""

from typing import Any

from markdown import table

BEGIN, END = "<!-- parity: begin -->", "<!-- parity: end -->"
COLUMNS = [
    *("file, engine", "score", "map", "AUROC", "x torch, batch 1", "batch 8", "file MB"),
    "peak MB",
]


def small(value: float) -> str:
    """Format a difference."""
    return "0" if value == 0 else f"{value:.1e}"


def rows(figures: list[dict[str, Any]]) -> list[list[str]]:
    """One row a file and engine: the worst over sizes and batches."""
    made = []
    for one in figures:
        found = one["rows"]
        worst = {
            key: max(row[key] for row in found)
            for key in ("score_error", "map_error", "auroc_difference")
        }
        first = found[0]["shape"]
        ratio = {row["batch"]: row["ratio"] for row in found if row["shape"] == first}
        made.append(
            [
                f"{one['precision']}, {one['engine']}",
                *(small(value) for value in worst.values()),
                f"{ratio[min(ratio)]:.2f}",
                f"{ratio[max(ratio)]:.2f}",
                f"{one['file_bytes'] / 1e6:.1f}",
                f"{one['peak_memory'] / 1e6:.0f}",
            ]
        )
    return made


def parity(found: list[tuple[str, dict[str, Any]]], text: str) -> str:
    """Put the tables between the page's markers."""
    parts = []
    for stem, document in found:
        where = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
        parts.append(f"`benchmarks/results/{stem}.json`; {document['date']}; {where}.")
        for name, one in document["sets"].items():
            study, figures = one["study"], one["figures"]
            shapes = sorted(
                {"x".join(map(str, row["shape"])) for f in figures for row in f["rows"]}
            )
            batches = sorted({row["batch"] for f in figures for row in f["rows"]})
            bank = f", bank of {study['bank']} vectors" if study["bank"] else ""
            weights = study["weights"] or "random weights"
            given = "" if study["detector"] not in ("knn", "masked") else f", {weights}"
            parts += [
                f"**{name}**: {study['detector']}{given}{bank}, {study['images']} images of "
                f"{study['data']}, {' '.join(shapes)} pixels, batches {batches[0]}..{batches[-1]}, "
                f"{study['threads']} thread.",
                table(COLUMNS, rows(figures)),
            ]
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}"
