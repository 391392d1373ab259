"""The parity table of docs/deploy.md, from the committed result files."""

from typing import Any

from markdown import table

BEGIN, END = "<!-- parity: begin -->", "<!-- parity: end -->"
COLUMNS = [
    *("file, engine", "score", "map", "AUROC", "x torch, batch 1", "batch 8"),
    *("x plain torch, batch 1", "batch 8", "file MB", "peak MB"),
]


def small(value: float) -> str:
    """Format a difference."""
    return "0" if value == 0 else f"{value:.1e}"


def times(ratio: float | None) -> str:
    """Format a ratio."""
    return "-" if ratio is None else f"{ratio:.2f}"


def title(one: dict[str, Any]) -> str:
    """What a file is: for `target` what was chosen."""
    name = str(one["precision"])
    if "chosen" in one:
        name = name.replace("target", one["chosen"]) + " (`--target`)"
    return f"{name}, {one['engine']}"


def tried(figures: list[dict[str, Any]]) -> list[list[str]]:
    """One row a candidate of `--target`: at four images a batch, on the images it was chosen on."""
    made = []
    for one in figures:
        bank = one["precision"].partition(", ")[2]
        for candidate in one.get("tried", []):
            ratio = candidate["ratio"]
            name = f"{candidate['name']}{', ' if bank else ''}{bank}, {one['engine']}"
            outcome = "refused" if candidate["refused"] else "may be used"
            made.append(
                [
                    name + (", chosen" if candidate["name"] == one["chosen"] else ""),
                    small(candidate["score_error"]),
                    small(candidate["map_error"]),
                    outcome if ratio is None else f"{ratio:.2f}",
                ]
            )
    return made


def rows(figures: list[dict[str, Any]]) -> list[list[str]]:
    """One row a file and engine: the worst over sizes and batches."""
    made = []
    for one in figures:
        if "refused" in one:
            made.append([title(one), "refused", *["-"] * (len(COLUMNS) - 2)])
            continue
        found = one["rows"]
        worst = {
            key: max(row[key] for row in found)
            for key in ("score_error", "map_error", "auroc_difference")
        }
        first = found[0]["shape"]
        ratios = {
            row["batch"]: (row["ratio"], row["ratio_plain"])
            for row in found
            if row["shape"] == first
        }
        one_image, many = ratios[min(ratios)], ratios[max(ratios)]
        made.append(
            [
                title(one),
                *(small(value) for value in worst.values()),
                *(times(pair[of]) for of in (0, 1) for pair in (one_image, many)),
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
            batches = sorted({row["batch"] for f in figures for row in f.get("rows", ())})
            bank = f", bank of {study['bank']} vectors" if study["bank"] else ""
            weights = study["weights"] or "random weights"
            given = "" if study["detector"] not in ("knn", "masked") else f", {weights}"
            parts += [
                f"**{name}**: {study['detector']}{given}{bank}, {study['images']} images of "
                f"{study['data']}, {' '.join(shapes)} pixels, batches {batches[0]}..{batches[-1]}, "
                f"{study['threads']} thread.",
                table(COLUMNS, rows(figures)),
            ]
            candidates = tried(figures)
            if candidates:
                parts += [
                    "What `--target` tried, on other images, four at once:",
                    table(["candidate", "score", "map", "x torch"], candidates),
                ]
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}"
