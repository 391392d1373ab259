"""The defences' part of docs/results.md, from the committed result files."""

from typing import Any

from markdown import table


def number(value: float | None) -> str:
    """Format a figure with three digits, or a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def steps(eps: float) -> str:
    """Radius in steps of an 8-bit image."""
    return f"{eps * 255:.6g}/255"


def command(name: str, study: dict[str, Any]) -> str:
    """Give the command that made a run."""
    options = {
        "defence": " ".join(study["defences"]),
        "shots": study["shots"],
        "attack": " ".join(study["attacks"]),
        "eps": " ".join(steps(eps) for eps in study["eps"]),
        "backbone": study["backbone"],
        "weights": study["weights"] and f"WEIGHTS/{study['weights']}",
        "robust": study["robust"],
        "robust-weights": study["robust_weights"] and f"WEIGHTS/{study['robust_weights']}",
        "image-size": study["image_size"],
        "images": study["images"],
    }
    given = " ".join(f"--{key} {value}" for key, value in options.items() if value is not None)
    mask = " --mask" if study["mask"] else ""
    return (
        f"robustad reproduce defences --dataset {study['dataset']} --data DATA/{name} {given}"
        f"{mask} --seed {study['seed']} --out runs/{name}"
    )


def rows(figures: dict[str, Any], radii: list[float]) -> list[list[str]]:
    """One row a defence: clean and worst-case AUROC, and what was gained over none."""
    worst = ["worst_case" if i == 0 else f"worst_case@{steps(e)}" for i, e in enumerate(radii)]
    base = figures.get("none")
    made = []
    for name, found in figures.items():
        conditions = found["conditions"]
        cells = [number(conditions[c]["auroc"]) for c in ("clean", *worst)]
        if base is None or name == "none":
            gains = ["-"] * (1 + len(worst))
        else:
            gains = [
                f"{conditions[c]['auroc'] - base['conditions'][c]['auroc']:+.3f}"
                for c in ("clean", *worst)
            ]
        low, high = conditions[worst[0]]["interval"]
        rates = [number(conditions[worst[0]][rate]) for rate in ("fpr", "fnr")]
        spread = found["spread"]
        flag = "-" if spread is None else number(spread["flag_auroc"])
        made.append(
            [f"`{name}`: {found['summary']}", *cells, f"{low:.2f}-{high:.2f}", *gains, *rates, flag]
        )
    return made


def defences(title: str, document: dict[str, Any]) -> list[str]:
    """Make the paragraphs of one result file: a table a category, and the commands."""
    where = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    parts = [
        f"## {title}\n\nDefences for memory banks: image AUROC clean and in the worst case over "
        "the attacks, which go through the whole defence, and what that gains over `none` on the "
        "same images. A gain much smaller than the 95% interval is wide says nothing. "
        f"{document['date']}; {where}."
    ]
    for name, one in document["sets"].items():
        radii = one["study"]["eps"]
        at = [f"at {steps(eps)}" for eps in radii]
        columns = [
            "defence",
            "clean",
            *at,
            f"95% {at[0]}",
            "gain clean",
            *(f"gain {text}" for text in at),
            f"FPR {at[0]}",
            f"FNR {at[0]}",
            "spread as flag",
        ]
        for category, figures in one["figures"].items():
            first = next(iter(figures.values()))
            count = f"{first['images'] - first['anomalous']} normal, {first['anomalous']} anomalous"
            parts += [
                f"### {name}: {category} ({count} images), {', '.join(one['study']['attacks'])}",
                table(columns, rows(figures, radii)),
                "\n".join(f"- {note}" for note in one["notes"]),
            ]
    commands = "\n".join(command(name, one["study"]) for name, one in document["sets"].items())
    return [*parts, f"Commands:\n\n```\n{commands}\n```"]
