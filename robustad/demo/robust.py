"""PatchGuard and its clean-trained twin on generated images, both attacked as hard as possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustad.data import Dataset, Sample
from robustad.evaluation import Evaluation, Example

# On the reported score and on the patches: the aligned attacks, whose worst case is the headline.
ATTACKS = ("pgd50", "pgd50_flip")
ROBUST, CLEAN_TRAINED = "patchguard", "patchguard, clean-trained"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """PatchGuard trained on attacked images, and the same network trained without attacks.

    Attributes
    ----------
    evaluations : list of Evaluation
        Of the two; their `method` says which is which.
    examples : dict of str to list of Example
        For the report's gallery, by `method/category`.
    """

    evaluations: list[Evaluation]
    examples: dict[str, list[Example]]


def run_pair(
    data: Dataset,
    held_out: Sequence[Sample],
    samples: Sequence[Sample],
    out: Path,
    *,
    eps: float,
    overrides: Mapping[str, Any],
    progress: bool,
    say: Callable[[str], None],
) -> Pair:
    """Train both with preset `fast`, and evaluate them clean and under attack.

    A folder each below `out`, from which an interrupted demo goes on.
    """
    from robustad.evaluation import collect_examples, evaluate

    plans: tuple[tuple[str, str, dict[str, Any], str], ...] = (
        (ROBUST, "patchguard", {}, "6/8 train: PatchGuard, attacked while it learns"),
        (CLEAN_TRAINED, "patchguard_clean", {"attack.steps": 0}, "7/8 train: its clean twin"),
    )
    evaluations, examples = [], {}
    for method, folder, more, line in plans:
        say(line)
        detector = _trained(
            data, out / folder, {"attack.eps": eps, **overrides, **more}, progress, say
        )
        evaluation = evaluate(
            detector,
            samples,
            calibration=held_out,
            attacks=ATTACKS,
            eps=eps,
            batch_size=16,
            dataset=data.name,
            category=data.category,
            progress=progress,
        )
        evaluation = evaluation.model_copy(update={"method": method})
        evaluation.save(out / folder / "evaluation.json")
        worst = evaluation.conditions["worst_case"].metrics.auroc
        say(f"AUROC {evaluation.clean.metrics.auroc:.3f} clean, {worst:.3f} in the worst case")
        evaluations.append(evaluation)
        examples[f"{method}/{data.category}"] = collect_examples(
            detector, samples, evaluation, count=2, attack_name=ATTACKS[0]
        )
    return Pair(evaluations=evaluations, examples=examples)


def _trained(
    data: Dataset,
    out: Path,
    overrides: dict[str, Any],
    progress: bool,
    say: Callable[[str], None],
) -> Any:
    from robustad.errors import StateError
    from robustad.training import train

    options: dict[str, Any] = {"out": out, "overrides": overrides, "progress": progress, "say": say}
    try:
        return train(data, "fast", **options)
    except StateError:  # left by an earlier demo with other options, or another version
        return train(data, "fast", restart=True, **options)
