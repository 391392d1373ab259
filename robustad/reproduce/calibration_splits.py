"""What each calibrator makes of one evaluation, over repeated splits of its images."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.calibration import RawScore, create, repeated_splits
from robustad.calibration.measures import MEASURES
from robustad.calibration.measures import values as measure_values
from robustad.errors import InputError
from robustad.evaluation import Evaluation
from robustad.evaluation.result import CLEAN
from robustad.metrics import flag_auroc
from robustad.verdict import binary_entropy

FloatArray = npt.NDArray[np.float64]
# One list of values a measure: one value a split.
Found = dict[str, list[float]]
RAW = "raw"
QUANTILES = (0.025, 0.975)


def split_figures(
    evaluation: Evaluation,
    methods: Sequence[str],
    *,
    splits: int = 20,
    fraction: float = 0.2,
    seed: int = 0,
    score_range: tuple[float, float] | None = None,
) -> dict[str, Found]:
    """Fit every method to one part of the images and measure it on the other, again and again.

    Parameters
    ----------
    evaluation : Evaluation
        Clean scores of a whole test set, and its scores under attacks. Nothing is attacked again.
    methods : sequence of str
        As `robustad.calibration.create` takes them; `raw` is added.
    splits, fraction, seed
        See `robustad.calibration.repeated_splits`.
    score_range : (float, float), optional
        Of the detector, for `beta`.

    Returns
    -------
    dict of str to dict of str to list of float
        By method: each of `robustad.calibration.measures.MEASURES` on the clean images, and
        `flag_<attack>`, the AUROC of entropy as a flag that tells the attacked from the clean
        images. One value a split; splits that a method cannot be fitted to are left out.

    Raises
    ------
    InputError
        If a label occurs less than twice or a method is unknown.
    """
    for name in methods:
        create(name)
    labels = np.asarray(evaluation.labels)
    scores = {name: evaluation.scores(name) for name in (CLEAN, *evaluation.attacks)}
    clean = scores[CLEAN]
    found: dict[str, Found] = {name: {} for name in (RAW, *methods)}
    for fitted, measured in repeated_splits(labels, fraction=fraction, repeats=splits, seed=seed):
        for name in (RAW, *methods):
            try:
                calibrator = _fitted(name, clean[fitted], labels[fitted], score_range)
            except InputError:
                continue
            p = {what: calibrator.predict_proba(s[measured]) for what, s in scores.items()}
            values = measure_values(p[CLEAN], labels[measured])
            entropy = {what: binary_entropy(one) for what, one in p.items()}
            for attack in evaluation.attacks:
                values[f"flag_{attack}"] = flag_auroc(entropy[CLEAN], entropy[attack])
            for measure, value in values.items():
                found[name].setdefault(measure, []).append(value)
    return found


def pooled(runs: Iterable[Mapping[str, Found]]) -> dict[str, Found]:
    """Join the values of several runs, such as those of other shots."""
    joined: dict[str, Found] = {}
    for run in runs:
        for method, found in run.items():
            into = joined.setdefault(method, {})
            for measure, values in found.items():
                into.setdefault(measure, []).extend(values)
    return joined


def summary(found: Mapping[str, Found], tried: int) -> dict[str, Any]:
    """Mean and spread of each measure, ready for JSON.

    Parameters
    ----------
    found : mapping
        As of `split_figures` or `pooled`.
    tried : int
        Splits in all.

    Returns
    -------
    dict
        By method: `splits` that count, `failed` ones that it could not be fitted to, and by measure
        the mean and the 0.025 and 0.975 quantiles over splits. The splits overlap: the quantiles
        say how much depends on the choice of the calibration images, and bound no true value.
    """
    made: dict[str, Any] = {}
    for method, measures in found.items():
        done = len(next(iter(measures.values()), []))
        made[method] = {"splits": done, "failed": tried - done}
        for name, values in measures.items():
            low, high = np.quantile(values, QUANTILES)
            made[method][name] = {
                "mean": float(np.mean(values)), "low": float(low), "high": float(high),
            }  # fmt: skip
    return made


def measure_names(attacks: Sequence[str]) -> list[str]:
    """Names of what `split_figures` finds."""
    return [*MEASURES, *(f"flag_{attack}" for attack in attacks)]


def _fitted(
    name: str,
    scores: FloatArray,
    labels: npt.NDArray[np.int64],
    score_range: tuple[float, float] | None,
) -> Any:
    if name == RAW:
        return RawScore()
    calibrator = create(name)
    if name == "beta":
        calibrator = type(calibrator)(score_range=score_range)  # type: ignore[call-arg]
    with warnings.catch_warnings():
        # Few images and distances under a temperature are what is being looked at.
        warnings.simplefilter("ignore", UserWarning)
        return calibrator.fit(scores, labels)
