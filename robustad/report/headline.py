"""What the numbers say, as sentences computed from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustad.conformal import smallest_n
from robustad.evaluation import Evaluation, coverage
from robustad.evaluation.result import WORST
from robustad.metrics import trivial_f1
from robustad.report.wording import count, eps_text, number, objective, percent, place

CHANCE = 0.5
PROMISED = 0.05  # false alarm rate whose fate is told
F1_CLOSE = 0.005  # as near to the trivial F1 as a published table of two decimals tells apart


def verdict(evaluation: Evaluation) -> str:
    """Sum up one evaluation: AUROC clean, under the study's attack, under direct ones, worst."""
    clean = evaluation.clean.metrics.auroc
    start = f"Clean AUROC {number(clean)}"
    if not evaluation.attacks:
        return f"{start}{_chance(clean)}. No attack was run: nothing is known of its robustness."
    at = f" at {eps_text(evaluation.eps)}"
    parts = [start + _chance(clean)]
    kinds = (
        ("probe attack of the study", [n for n in evaluation.attacks if objective(n) == "probe"]),
        (
            "direct attack on the score",
            [n for n in evaluation.attacks if objective(n) == "image"],
        ),
        (
            "attack on the patch scores",
            [n for n in evaluation.attacks if objective(n) in ("flip", "bce")],
        ),
        ("", [n for n in evaluation.attacks if objective(n) == ""]),
    )
    for kind, names in kinds:
        for name in _strongest(evaluation, names) if kind else names:
            value = evaluation.conditions[name].metrics.auroc
            which = "the strongest " if len(names) > 1 else "the "
            who = f"{which}{kind} ({name}){at}" if kind else f"attack {name}{at}"
            parts.append(f"{who} {_effect(clean, value)}")
            at = ""  # said once
    worst = evaluation.conditions.get(WORST)
    if worst is not None:
        value = worst.metrics.auroc
        parts.append(f"the worst case per image over all passes is {number(value)}{_chance(value)}")
    return "; ".join(parts) + "."


def findings(evaluation: Evaluation) -> list[str]:
    """Say what stands out beside the AUROC, one sentence each; only what was measured."""
    found = [_decisions(evaluation), _trivial(evaluation), _localisation(evaluation)]
    found += [_calibration(evaluation), *_flags(evaluation), _promise(evaluation)]
    return [*filter(None, found)]


def overview(evaluations: Sequence[Evaluation]) -> str:
    """Sum up several evaluations: mean, lowest and highest, a sentence each method."""
    sentences = []
    for method in dict.fromkeys(one.method for one in evaluations):
        group = [one for one in evaluations if one.method == method]
        clean = [one.clean.metrics.auroc for one in group]
        sentence = f"{method}: clean AUROC {_spread(clean)} over {count(len(group), 'evaluation')}"
        attacked = [one for one in group if WORST in one.conditions]
        if attacked:
            worst = [one.conditions[WORST].metrics.auroc for one in attacked]
            sentence += f"; in the worst case per image {_spread(worst)}"
            if number(min(worst)) != number(max(worst)):
                best, least = (attacked[int(pick(worst))] for pick in (np.argmax, np.argmin))
                sentence += f", highest for {place(best)}, lowest for {place(least)}"
            if len(attacked) < len(group):
                sentence += f" ({len(attacked)} of them attacked)"
        sentences.append(sentence + ".")
    return " ".join(sentences)


def _strongest(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: evaluation.conditions[name].metrics.auroc)[:1]


def _effect(clean: float, value: float) -> str:
    if number(value) == number(clean):
        return f"changes nothing ({number(value)})"
    return f"leaves {number(value)}" if value < clean else f"raises it to {number(value)}"


def _chance(value: float) -> str:
    return ", worse than guessing" if number(value) < number(CHANCE) else ""


def _spread(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    if low == high:
        return low
    return f"{number(float(np.mean(values)))} on average ({low} to {high})"


def _decisions(evaluation: Evaluation) -> str:
    clean, worst = evaluation.clean.metrics, evaluation.conditions.get(WORST)
    if clean.fpr is None or clean.fnr is None:
        return ""
    text = (
        f"At the threshold fixed on clean images {percent(clean.fpr)} of the normal images are "
        f"called anomalous and {percent(clean.fnr)} of the anomalous ones normal"
    )
    if worst is None or worst.metrics.fpr is None or worst.metrics.fnr is None:
        return text + "."
    return (
        f"{text}; in the worst case {percent(worst.metrics.fpr)} and {percent(worst.metrics.fnr)}."
    )


def _trivial(evaluation: Evaluation) -> str:
    worst = evaluation.conditions.get(WORST, evaluation.clean)
    floor = trivial_f1(float(np.mean(evaluation.labels)))
    if worst.metrics.f1_max - floor >= F1_CLOSE:
        return ""
    where = "Worst-case" if worst is not evaluation.clean else "Clean"
    return (
        f"{where} F1-max is {number(worst.metrics.f1_max)}; calling every image anomalous gets "
        f"{number(floor)}, so this F1 tells nothing."
    )


def _localisation(evaluation: Evaluation) -> str:
    clean = evaluation.clean.metrics.aupro
    if clean is None:
        return ""
    attacked = {
        name: value
        for name in evaluation.attacks
        if (value := evaluation.conditions[name].metrics.aupro) is not None
    }
    if not attacked:
        return f"Localisation: AUPRO {number(clean)}."
    lowest = min(attacked, key=attacked.__getitem__)
    return (
        f"Localisation: AUPRO {number(clean)} clean, {number(attacked[lowest])} at its lowest "
        f"({lowest})."
    )


def _calibration(evaluation: Evaluation) -> str:
    report = evaluation.calibration
    if report is None:
        return ""
    before, after = report.before, report.after
    method = str(report.calibrator.get("method", "")).capitalize()
    on = f", fitted on {count(len(report.names), 'other image')}," if report.names else ""
    return (
        f"Calibration ({method}){on} takes the expected calibration error from "
        f"{number(before.ece_positive)} to {number(after.ece_positive)} and the negative "
        f"log-likelihood from {number(before.nll)} to {number(after.nll)}."
    )


def _promise(evaluation: Evaluation) -> str:
    report = evaluation.conformal
    if report is None:
        return ""
    n, least = len(report.scores["normal"]), smallest_n(PROMISED)
    if n < least:
        return (
            f"No threshold from {count(n, 'held-out normal image')} can promise at most "
            f"{percent(PROMISED)} false alarms: it takes {least}."
        )
    [clean] = coverage(evaluation, alphas=[PROMISED])
    kept = "more than chance explains" if clean.realised > clean.high else "kept"
    held_out = count(n, "held-out normal image")
    text = (
        f"At most {percent(PROMISED)} false alarms are promised from {held_out}: on clean images "
        f"there are {percent(clean.realised)} ({kept})"
    )
    if WORST in evaluation.conditions:
        [worst] = coverage(evaluation, WORST, alphas=[PROMISED])
        text += f" and {percent(worst.realised)} in the worst case: no promise holds under attack"
    return text + "."


def _flags(evaluation: Evaluation) -> list[str]:
    rate = evaluation.clean.flag_rate
    attacked = [n for n in evaluation.attacks if evaluation.conditions[n].flag_rate is not None]
    if rate is None or not attacked:
        return []
    name = _strongest(evaluation, attacked)[0]
    condition = evaluation.conditions[name]
    text = (
        f"The entropy flag defers {percent(rate)} of the clean images and "
        f"{percent(condition.flag_rate)} of those under {name}"
    )
    if condition.flag_auroc is not None:
        text += f"; as a detector of that attack, entropy has AUROC {number(condition.flag_auroc)}"
        text += _chance(condition.flag_auroc)
    return [text + "."]
