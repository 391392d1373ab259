"""What an evaluation found: every score, and the figures made of them, as one JSON document."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from robustad._files import write_text
from robustad.errors import InputError, StateError

CLEAN, WORST = "clean", "worst_case"
AT = "@"  # between an attack and a radius that is not the first


def eps_name(eps: float) -> str:
    """Radius in steps of an 8-bit image, as names of conditions have it.

    Examples
    --------
    >>> eps_name(8 / 255), eps_name(0.01)
    ('8/255', '2.55/255')
    """
    return f"{eps * 255:.6g}/255"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metrics(_Model):
    """Figures of one condition, fractions of 1; None where they do not apply.

    Attributes
    ----------
    auroc, ap, f1_max, gmean_max : float
        Of the image scores; F1 and G-mean at the threshold that is best for them.
    auroc_interval : (float, float) or None
        95% bootstrap interval of the AUROC over images (`robustad.metrics.auroc_interval`).
    fpr, fnr : float or None
        At the threshold fixed on clean calibration images.
    pixel_auroc, pixel_ap, aupro : float or None
        Of the anomaly maps, over the images that have masks.
    """

    auroc: float
    ap: float
    f1_max: float
    gmean_max: float
    auroc_interval: tuple[float, float] | None = None
    fpr: float | None = None
    fnr: float | None = None
    pixel_auroc: float | None = None
    pixel_ap: float | None = None
    aupro: float | None = None


class FlagResult(_Model):
    """How often a flag was raised in one condition, and how well it tells that from clean.

    Attributes
    ----------
    rate, rate_normal, rate_anomalous : float or None
        Share of all, of the normal and of the anomalous images that are flagged; None where no
        threshold is set.
    auroc, auroc_normal, auroc_anomalous : float or None
        As a detector of all these images, of the normal or the anomalous ones alone, against all
        clean images; None in the clean pass.
    false_alarm, detection : list of float
        The ROC curve, as `robustad.metrics.flag_curve`; empty in the clean pass.
    """

    rate: float | None = None
    rate_normal: float | None = None
    rate_anomalous: float | None = None
    auroc: float | None = None
    auroc_normal: float | None = None
    auroc_anomalous: float | None = None
    false_alarm: list[float] = []
    detection: list[float] = []


class Condition(_Model):
    """One pass over the evaluation images: clean, under one attack, or the worst over all.

    Attributes
    ----------
    name : str
        `clean`, an attack's name, or `worst_case`; behind `@` the radius where it is not the
        evaluation's first.
    eps : float or None
        Radius of the ball; None for `clean`.
    score : list of float
        Image scores in the order of the evaluation's `names`: of the images the attack returned.
    worst_score : list of float or None
        The worst score of each image among all that the attack looked at inside the ball.
    chosen : list of str or None
        Of the worst case: which condition each image's score comes from.
    probability, entropy : list of float or None
        Calibrated, where there is a calibrator.
    metrics : Metrics
        The figures.
    entropy_mean : float or None
        Mean predictive entropy in nats.
    raw_entropy_mean : float or None
        Mean entropy of the raw score taken as a probability, as the study's uncalibrated columns.
    flag_auroc, flag_rate : float or None
        How well entropy tells this condition from clean; share of images above the entropy flag.
    p_value : list of float or None
        Conformal p-values, where normal images were held out.
    attack_flags : dict of str to FlagResult
        "entropy" (with a calibrator) and "too_normal" (with held-out scores), see
        `robustad.evaluation.flags`.
    distance : float
        Largest distance to the clean images, in the attack's norm.
    forward, backward : list of int or None
        Passes of the detector over each image; forward passes are the queries of a black box.
    flags : dict of str to int
        What attacks noticed (`AttackResult.flags`), each with how many images were in such a batch.
    seconds : float
        Time taken, also that of units that an earlier run had computed.
    """

    name: str
    eps: float | None = None
    score: list[float]
    worst_score: list[float] | None = None
    chosen: list[str] | None = None
    probability: list[float] | None = None
    entropy: list[float] | None = None
    metrics: Metrics
    entropy_mean: float | None = None
    raw_entropy_mean: float | None = None
    flag_auroc: float | None = None
    flag_rate: float | None = None
    p_value: list[float] | None = None
    attack_flags: dict[str, FlagResult] = {}
    distance: float = 0.0
    forward: list[int] | None = None
    backward: list[int] | None = None
    flags: dict[str, int] = {}
    seconds: float = 0.0


class Check(_Model):
    """One question that an evaluation asks about itself.

    Attributes
    ----------
    name : str
        A key of `robustad.evaluation.selfcheck.CHECKS`.
    fired : bool or None
        Whether the evaluation is suspect; None where it had nothing to tell it by.
    sentence : str
        What was found, in words, with the figures it rests on.
    numbers : dict of str to float
        These figures.
    """

    name: str
    fired: bool | None
    sentence: str
    numbers: dict[str, float] = {}


class Measures(_Model):
    """Calibration measures on the clean evaluation images."""

    ece_positive: float
    ece_top_label: float
    nll: float
    brier: float


class CalibrationReport(_Model):
    """How the calibrator was made and what it changed.

    Attributes
    ----------
    calibrator : dict
        Its `to_dict`.
    names : list of str
        Images it was fitted on here, none of them in the evaluation; empty if it came fitted.
    threshold : float or None
        Probability from which on the verdict is reject; None in older files.
    score_threshold : float or None
        Image score at which the verdict changes; None where it is the same for all scores.
    entropy_threshold : float or None
        Above it the verdict is deferred.
    before, after : Measures
        Of the raw score clipped to [0, 1] and of the probability.
    """

    calibrator: dict[str, Any]
    names: list[str]
    threshold: float | None = None
    score_threshold: float | None
    entropy_threshold: float | None
    before: Measures
    after: Measures


class ConformalReport(_Model):
    """What the p-values rest on.

    Attributes
    ----------
    scores : dict
        `robustad.conformal.ConformalScores.to_dict`.
    names : list of str
        The held-out images, normal and anomalous; empty where the detector came with its scores.
    guarantee : str
        What the p-values promise.
    """

    scores: dict[str, Any]
    names: list[str]
    guarantee: str


class Evaluation(_Model):
    """The result of `robustad.evaluate`.

    Attributes
    ----------
    format : 2
        Version of this document. Files of version 1 are read as well; they lack what came later:
        `epsilons`, `checks`, `hashes`, and costs, intervals and pixel figures of the worst case.
    method, dataset, category : str
        What was evaluated on what.
    names, defects : list of str
        The evaluation images.
    labels : list of int
        0 normal, 1 anomalous.
    eps : float
        Radius of all attacks, each in its own norm; with several the first one asked for.
    epsilons : list of float
        All radii, in the order asked for; empty without attacks and in files of version 1.
    conditions : dict of str to Condition
        `clean` first, then the attacks at `eps`, `worst_case` (if there is an attack); then
        `<attack>@<eps>` and `worst_case@<eps>` for every other radius.
    checks : list of Check
        What the evaluation asked itself; see `robustad.evaluation.selfcheck`.
    hashes : dict of str to str
        SHA-256 of the `detector` and of the evaluated `data`.
    calibration : CalibrationReport or None
        None where no calibrator was given or fitted.
    conformal : ConformalReport or None
        None where no normal image was held out.
    settings : dict
        What else determines the result: attacks, seeds, versions.
    """

    format: Literal[1, 2] = 2
    method: str
    dataset: str
    category: str
    names: list[str]
    defects: list[str]
    labels: list[int]
    eps: float
    conditions: dict[str, Condition]
    calibration: CalibrationReport | None = None
    conformal: ConformalReport | None = None
    epsilons: list[float] = []
    checks: list[Check] = []
    hashes: dict[str, str] = {}
    settings: dict[str, Any] = {}

    @property
    def clean(self) -> Condition:
        """The pass without attack."""
        return self.conditions[CLEAN]

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks, in the order they were run."""
        return [name for name in self.shown if name not in (CLEAN, WORST)]

    @property
    def shown(self) -> dict[str, Condition]:
        """The conditions at `eps`, without those of the other radii."""
        return {name: one for name, one in self.conditions.items() if AT not in name}

    @property
    def fired(self) -> list[Check]:
        """The checks that say that this evaluation cannot be trusted as it is."""
        return [check for check in self.checks if check.fired]

    def at(self, eps: float) -> dict[str, Condition]:
        """Conditions of one radius by attack, `worst_case` last.

        Raises
        ------
        InputError
            If nothing was evaluated at this radius.
        """
        found = {
            name.partition(AT)[0]: one
            for name, one in self.conditions.items()
            if one.eps is not None and math.isclose(one.eps, eps, rel_tol=1e-6)
        }
        if not found:
            radii = ", ".join(eps_name(one) for one in self.epsilons) or "none"
            raise InputError(f"eps: expected one of {radii}, got {eps_name(eps)}")
        return found

    def scores(self, condition: str = CLEAN) -> npt.NDArray[np.float64]:
        """Image scores (n,) of one condition."""
        return np.asarray(self.conditions[condition].score)

    def save(self, path: str | Path) -> None:
        """Write to a JSON file, whole or not at all."""
        write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If there is no such file.
        StateError
            If it is not an evaluation of this version.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such evaluation file")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise StateError(f"{path}: not an evaluation: {where}: {first['msg']}") from error
