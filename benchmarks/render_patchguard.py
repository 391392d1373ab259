"""PatchGuard's part of docs/results.md, from the committed result files."""

from typing import Any

from markdown import table


def percent(value: float | None) -> str:
    """Format an AUROC with three digits, or a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def command(name: str, study: dict[str, Any]) -> str:
    """Give the command that made a run."""
    where = "" if study["dataset"] == "surfaces" else " --data DATA"
    overrides = " ".join(f'"{text}"' if " " in text else text for text in study["overrides"])
    only = f" --set {overrides}" if overrides else ""
    return (
        f"robustad reproduce patchguard --dataset {study['dataset']}{where} --category CATEGORY "
        f"--preset {study['preset']} --table {' '.join(study['tables'])} "
        f"--attack {' '.join(study['attacks'])}{only} --out runs/{name}"
    )


def patchguard(title: str, document: dict[str, Any]) -> list[str]:
    """Make the paragraphs of one result file: a table, and the commands."""
    where = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    first = next(iter(document["sets"].values()))["study"]
    attacks = [*first["attacks"]]
    rows = []
    for name, one in document["sets"].items():
        for found in one["figures"].values():
            for row, figures in found.items():
                conditions = figures["conditions"]
                image = [conditions[c]["auroc"] for c in ("clean", *attacks, "worst_case")]
                pixel = [conditions[c]["pixel_auroc"] for c in ("clean", *attacks)]
                what = f"{', '.join(figures['categories'])}: {name}, {row}"
                rows.append([what, *(percent(value) for value in (*image, *pixel))])
    columns = [
        "run",
        *(f"image, {c}" for c in ("clean", *attacks, "worst case")),
        *(f"pixel, {c}" for c in ("clean", *attacks)),
    ]
    commands = "\n".join(command(name, one["study"]) for name, one in document["sets"].items())
    return [
        f"## {title}\n\nAUROC at 8/255; `worst case` keeps each image's worst score over the "
        f"clean pass and both attacks. {document['date']}; {where}.",
        table(columns, rows),
        f"Commands:\n\n```\n{commands}\n```",
    ]
