"""The calibrators' part of docs/results.md, from the committed result files."""

from typing import Any

from markdown import table

MEASURES = {
    "ece_positive": "ECE",
    "ece_adaptive": "adaptive ECE",
    "nll": "NLL",
    "brier": "Brier",
    "risk_at_90": "risk at 90%",
    "aurc": "AURC",
}


def cell(found: dict[str, float] | None) -> str:
    """Format a mean and its spread, or a dash where there is none."""
    if found is None:
        return "-"
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def command(name: str, s: dict[str, Any]) -> str:
    """Give the command that made a run."""
    mask = {None: "", True: " --mask", False: " --no-mask"}[s["mask"]]
    weights = f" --weights WEIGHTS/{s['weights']}" if s["weights"] else ""
    coreset = f" --full-coreset {s['full_coreset']}" if s["full_coreset"] else ""
    shots = " ".join(str(k) for k in s["shots"])
    return (
        f"robustad reproduce calibration --dataset {s['dataset']} --data DATA/{name} "
        f"--backbone {s['backbone']}{weights} --image-size {s['image_size']} "
        f"--preprocessing {s['preprocessing']}{mask} --shots {shots} --seeds {s['seeds']}"
        f"{coreset} --splits {s['splits']} --attack {' '.join(s['attacks'])} --out runs/{name}"
    )


def calibration(title: str, document: dict[str, Any]) -> list[str]:
    """Make the paragraphs of one result file: a table a set, notes, and the commands."""
    where = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    parts = [
        f"## {title}\n\nEvery calibrator over repeated splits of the test images: mean, and in "
        "brackets the 0.025 and 0.975 quantiles over the splits. Flags: AUROC of the entropy as a "
        f"detector of attacked images. {document['date']}; {where}."
    ]
    for one in document["sets"].values():
        attacks = one["study"]["attacks"]
        names = [*MEASURES, *(f"flag_{attack}" for attack in attacks)]
        columns = ["shots, method", *MEASURES.values(), *(f"flag, {a}" for a in attacks)]
        for category, by_shots in one["figures"].items():
            rows = [
                [f"{shots}, {method}", *(cell(found.get(measure)) for measure in names)]
                for shots, figures in by_shots.items()
                for method, found in figures["methods"].items()
            ]
            normal, anomalous = next(iter(by_shots.values()))["images"]
            parts.append(
                f"### {category}: {normal} normal and {anomalous} anomalous test images\n\n"
                f"{table(columns, rows)}"
            )
        parts.append("\n".join(f"- {note}" for note in one["notes"]))
    commands = "\n".join(command(name, one["study"]) for name, one in document["sets"].items())
    return [*parts, f"Commands:\n\n```\n{commands}\n```"]
