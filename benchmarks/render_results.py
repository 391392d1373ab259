"""Put committed result files into words: pages under docs/ and the README's table.

    robustad reproduce fewshot ... --out RUN      (see docs/results.md for the commands)
    robustad reproduce patchguard ... --out RUN
    robustad reproduce defences ... --out RUN
    robustad reproduce calibration ... --out RUN
    python benchmarks/render_results.py --add fewshot_NAME RUN [RUN ...]
    python benchmarks/render_results.py --add patchguard_NAME RUN [RUN ...]
    python benchmarks/render_results.py --add defences_NAME RUN [RUN ...]
    python benchmarks/render_results.py --add calibration_NAME RUN [RUN ...]
    python benchmarks/render_results.py --add attacks_NAME RUN [RUN ...]     (of attack_table.py)
    python benchmarks/render_results.py --add parity_NAME RUN [RUN ...]      (of parity_table.py)
    python benchmarks/conformal_coverage.py --out benchmarks/results/conformal_NAME.json
    python benchmarks/render_results.py

The first form collects finished runs into benchmarks/results/NAME.json with the machine they were
made on; the second rewrites the documents from the files in that folder.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from markdown import table
from render_attacks import attacks
from render_calibration import calibration
from render_conformal import conformal
from render_defences import defences
from render_parity import parity
from render_patchguard import patchguard

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
CONDITIONS = ("clean", "fgsm_probe", "fgsm", "pgd10", "worst_case")


def machine() -> dict[str, str]:
    """Describe the machine in a few words."""
    import torch

    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
        cpu = f"{sum(x.startswith('processor') for x in lines)} cores of {cpu}"
    return {"cpu": cpu, "python": platform.python_version(), "torch": str(torch.__version__)}


def add(name: str, runs: list[Path]) -> None:
    """Collect the figures of finished `robustad reproduce` runs."""
    found = {run.name: json.loads((run / "tables.json").read_text()) for run in runs}
    document = {
        "machine": machine(),
        "date": datetime.now(tz=UTC).date().isoformat(),
        "sets": {
            name: {"study": run["study"], "figures": run["figures"], "notes": run["notes"]}
            for name, run in found.items()
        },
    }
    for one in document["sets"].values():
        study = one["study"]
        for key in ("weights", "robust_weights"):  # PatchGuard's are overrides
            if key in study:
                study[key] = Path(study[key]).name if study[key] else None
        if "overrides" in study:
            study["overrides"] = [named(text) for text in study["overrides"]]
            one["notes"] = []  # they repeat the overrides
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def named(override: str) -> str:
    """Leave of a file in FIELD=VALUE only its name: where it lies is nobody's business."""
    field, _, value = override.partition("=")
    return f"{field}={Path(value).name}" if field.endswith("weights") else override


def number(value: float | None, digits: int = 3) -> str:
    """Format a figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def headline(document: dict[str, Any]) -> str:
    """Make the table of image AUROC by set, shots and attack, with ECE before and after."""
    columns = ["", *(name.replace("_", " ") for name in CONDITIONS), "ECE raw", "ECE Platt"]
    rows = []
    for name, one in document["sets"].items():
        for shots, found in one["figures"].items():
            count = {"1": "1 normal image", "full": "all normal images"}
            label = f"{name}, {count.get(shots, f'{shots} normal images')}"
            auroc = [number(found["conditions"][c]["auroc"]) for c in CONDITIONS]
            ece = [number(found["calibration"][w]["ece_positive"]) for w in ("before", "after")]
            rows.append([label, *auroc, *ece])
    return table(columns, rows)


def details(document: dict[str, Any]) -> str:
    """Make one table a set: every metric of every condition."""
    parts = []
    metrics = ("auroc", "ap", "f1_max", "gmean_max", "fpr", "fnr", "pixel_auroc", "aupro")
    for name, one in document["sets"].items():
        rows = []
        for shots, found in one["figures"].items():
            for condition in CONDITIONS:
                values = found["conditions"][condition]
                cells = [number(values[m]) for m in (*metrics, "entropy_mean")]
                rows.append([f"{shots}, {condition}", *cells])
        columns = ["shots, condition", *(m.replace("_", " ") for m in metrics), "entropy"]
        runs = ", ".join(f"{k}: {found['runs']}" for k, found in one["figures"].items())
        notes = "\n".join(f"- {note}" for note in [f"Runs averaged: {runs}.", *one["notes"]])
        parts.append(f"### {name}\n\n{table(columns, rows)}\n\n{notes}\n")
    return "\n".join(parts)


def commands(document: dict[str, Any]) -> str:
    """Give the commands that made the figures."""
    lines = []
    for name, one in document["sets"].items():
        s = one["study"]
        mask = {None: "", True: " --mask", False: " --no-mask"}[s["mask"]]
        coreset = f" --full-coreset {s['full_coreset']}" if s["full_coreset"] else ""
        shots = " ".join(str(k) for k in s["shots"])
        lines.append(
            f"robustad reproduce fewshot --dataset {s['dataset']} --data DATA/{name} "
            f"--backbone {s['backbone']} --weights WEIGHTS/{s['weights']} "
            f"--image-size {s['image_size']} --preprocessing {s['preprocessing']}{mask} "
            f"--shots {shots} --seeds {s['seeds']}{coreset} --out runs/{name}"
        )
    runs = " ".join(f"runs/{name}" for name in document["sets"])
    lines.append(f"python benchmarks/render_results.py --add NAME {runs}")
    return "```\n" + "\n".join(lines) + "\n```"


def page() -> str:
    """Render docs/results.md."""
    parts = [
        "# Results\n\nMade by `python benchmarks/render_results.py` from the files in "
        "`benchmarks/results/`; do not edit by hand. Fractions of 1. `worst case` keeps each "
        "image's worst score over the clean pass and all attacks. All figures come from images "
        "that neither the calibration nor any threshold has seen."
    ]
    for path in sorted(RESULTS.glob("fewshot_*.json")):
        document = json.loads(path.read_text())
        where = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
        parts += [
            f"## {path.stem}\n\nImage AUROC, clean and attacked at 8/255, and calibration error "
            f"of the clean scores. {document['date']}; {where}.",
            headline(document),
            "Commands:",
            commands(document),
            details(document),
        ]
    for path in sorted(RESULTS.glob("patchguard_*.json")):
        parts += patchguard(path.stem, json.loads(path.read_text()))
    for path in sorted(RESULTS.glob("calibration_*.json")):
        parts += calibration(path.stem, json.loads(path.read_text()))
    for path in sorted(RESULTS.glob("conformal_*.json")):
        parts += conformal(path.stem, json.loads(path.read_text()))
    for path in sorted(RESULTS.glob("defences_*.json")):
        parts += defences(path.stem, json.loads(path.read_text()))
    return "\n\n".join(parts).rstrip() + "\n"


def readme(text: str) -> str:
    """Put the headline tables between the README's markers."""
    made = []
    for path in sorted(RESULTS.glob("fewshot_*.json")):
        document = json.loads(path.read_text())
        cpu = document["machine"]["cpu"]
        made.append(f"{headline(document)}\n\nMeasured on {cpu}; `benchmarks/results/{path.name}`.")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n" + "\n\n".join(made) + f"\n{END}{after}"


def between_markers(
    page: str, kind: str, render: Callable[[list[tuple[str, dict[str, Any]]], str], str]
) -> str:
    """Put the tables of all result files of a kind into a page that has more than them."""
    text = (ROOT / "docs" / page).read_text()
    found = [(p.stem, json.loads(p.read_text())) for p in sorted(RESULTS.glob(f"{kind}_*.json"))]
    return render(found, text) if found else text


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", nargs="+", metavar=("NAME", "RUN"))
    parser.add_argument("--check", action="store_true", help="fail if a document is out of date")
    options = parser.parse_args()
    if options.add:
        add(options.add[0], [Path(run) for run in options.add[1:]])
    made = {
        ROOT / "docs" / "results.md": page(),
        ROOT / "README.md": readme((ROOT / "README.md").read_text()),
        ROOT / "docs" / "robustness.md": between_markers("robustness.md", "attacks", attacks),
        ROOT / "docs" / "deploy.md": between_markers("deploy.md", "parity", parity),
    }
    for path, text in made.items():
        if options.check:
            if path.read_text() != text:
                sys.exit(f"{path.relative_to(ROOT)} is out of date: run {Path(__file__).name}")
        else:
            path.write_text(text)


if __name__ == "__main__":
    main()
