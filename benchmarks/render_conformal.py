"""The guarantees' part of docs/results.md, from the committed result files."""

import math
from typing import Any

from markdown import table


def rate(value: float, error: float | None = None) -> str:
    """Format a rate with three digits, and the error of its mean if there is one."""
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def coverage(document: dict[str, Any]) -> str:
    """Make the table of realised against promised false alarm rates."""
    alphas = document["alphas"]
    kinds = {
        "clean": "clean",
        "with_confidence": f"clean, with confidence {document['settings']['confidence']:g}",
        "pgd10": "pgd10",
    }
    rows = []
    for category, found in document["coverage"].items():
        for one in found:
            for kind, name in kinds.items():
                means, errors = one[kind]["mean"], one[kind]["error"]
                cells = [rate(m, e) for m, e in zip(means, errors, strict=True)]
                rows.append([f"{category}, {one['held_out']} held out, {name}", *cells])
    return table(["promised", *(f"{alpha:g}" for alpha in alphas)], rows)


def chance(n: int, rest: int, alpha: float, confidence: float) -> float:
    """Share of splits that ought to have more than `alpha` false alarms among `rest` images."""
    from scipy.stats import betabinom

    from robustad.conformal.thresholds import allowed_errors

    k = allowed_errors(n, alpha, confidence)
    if k < 0:
        return 0.0
    return float(betabinom.sf(math.floor(alpha * rest + 1e-9), rest, k + 1, n - k))


def broken(document: dict[str, Any]) -> str:
    """Make the table of splits whose own rate, on the rest, was above the promised one."""
    rows, alphas = [], document["alphas"]
    for category, found in document["coverage"].items():
        for one in found:
            n, rest = one["held_out"], one["rest"]
            exact = [chance(n, rest, a, document["settings"]["confidence"]) for a in alphas]
            means = one["with_confidence_broken"]["mean"]
            cells = [f"{rate(m)} ({rate(e)})" for m, e in zip(means, exact, strict=True)]
            rows.append([f"{category}, {n} held out", *cells])
    return table(["promised", *(f"{alpha:g}" for alpha in document["alphas"])], rows)


def few_shots(document: dict[str, Any]) -> str:
    """Make the table of leave-one-out and jackknife+ rates."""
    rows, alphas = [], []
    for category, found in document["shots"].items():
        for one in found:
            alphas = one["alphas"]
            bank = "whitened" if one["whiten"] else "plain"
            for kind in ("leave_one_out", "jackknife_plus"):
                cells = [
                    rate(m, e) for m, e in zip(one[kind]["mean"], one[kind]["error"], strict=True)
                ]
                name = kind.replace("_", " ").replace(" plus", "+")
                rows.append([f"{category}, {one['k']} shots, {bank} bank, {name}", *cells])
    return table(["promised", *(f"{alpha:g}" for alpha in alphas)], rows)


def flags(document: dict[str, Any]) -> str:
    """Make the table of both flags, clean, under plain attacks and under the adaptive one."""
    columns = [
        "", "AUROC", "FPR", "FNR",
        *(f"{flag}: {what}" for flag in ("entropy", "too normal")
          for what in ("flagged", "of anomalous", "AUROC", "AUROC, anomalous")),
    ]  # fmt: skip
    rows = []
    for category, found in document["flags"].items():
        for name, one in found["conditions"].items():
            cells = [rate(one[key]) for key in ("auroc", "fpr", "fnr")]
            for flag in ("entropy", "too_normal"):
                keys = ("rate", "rate_anomalous", "auroc", "auroc_anomalous")
                cells += ["-" if one[flag][k] is None else rate(one[flag][k]) for k in keys]
            rows.append([f"{category}, {name}", *cells])
    return table(columns, rows)


def conformal(title: str, document: dict[str, Any]) -> list[str]:
    """Make the paragraphs of one result file."""
    where = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    settings = document["settings"]
    first = next(iter(document["coverage"].values()))[0]
    shots = next(iter(document["shots"].values()))[0]
    return [
        f"## {title}\n\nPromised error rates on generated images ({settings['image_size']} "
        f"pixels, {settings['images']} normal images a category, backbone "
        f"{settings['backbone']}, 4 shots). {document['date']}; {where}.",
        f"**False alarms, promised and realised**: mean over {first['splits']} random splits, "
        "with its standard error. Clean rates may exceed the promise by that error only. `pgd10` "
        f"at {settings['eps']} on the normal images breaks it, as any attack may: an attacked "
        "image is not drawn like the held-out ones. A rate of 0 means that so few images cannot "
        "promise the rate, and nothing is rejected.",
        coverage(document),
        f"**With confidence {settings['confidence']:g}**: share of splits whose threshold has "
        "more than the promised rate of false alarms among the images left over; in brackets the "
        "share that chance makes of so many images (beta-binomial). It would be at most "
        f"{1 - settings['confidence']:.1g} if infinitely many were left over.",
        broken(document),
        f"**Few shots** ({shots['k']} shots drawn anew {shots['draws']} times, nothing held out): "
        "leave-one-out promises the rate for a plain bank alone, jackknife+ twice the rate for "
        "any.",
        few_shots(document),
        "**Attack flags**: share of images flagged and AUROC against clean images. `adaptive` "
        "knows of both flags.",
        flags(document),
        "Command:\n\n```\npython benchmarks/conformal_coverage.py --out "
        f"benchmarks/results/{title}.json\n```",
    ]
