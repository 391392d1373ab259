"""What an evaluation found: every score, and the figures made of them, as one JSON document."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from robustad._files import write_text
from robustad.errors import InputError, StateError

CLEAN, WORST = "clean", "worst_case"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metrics(_Model):
    """Figures of one condition, fractions of 1; None where they do not apply.

    Attributes
    ----------
    auroc, ap, f1_max, gmean_max : float
        Of the image scores; F1 and G-mean at the threshold that is best for them.
    fpr, fnr : float or None
        At the threshold fixed on clean calibration images.
    pixel_auroc, pixel_ap, aupro : float or None
        Of the anomaly maps, over the images that have masks.
    """

    auroc: float
    ap: float
    f1_max: float
    gmean_max: float
    fpr: float | None = None
    fnr: float | None = None
    pixel_auroc: float | None = None
    pixel_ap: float | None = None
    aupro: float | None = None


class Condition(_Model):
    """One pass over the evaluation images: clean, under one attack, or the worst over all.

    Attributes
    ----------
    name : str
        `clean`, an attack's name, or `worst_case`.
    score : list of float
        Image scores in the order of the evaluation's `names`.
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
    distance : float
        Largest distance to the clean images, in the attack's norm.
    seconds : float
        Time taken.
    """

    name: str
    score: list[float]
    probability: list[float] | None = None
    entropy: list[float] | None = None
    metrics: Metrics
    entropy_mean: float | None = None
    raw_entropy_mean: float | None = None
    flag_auroc: float | None = None
    flag_rate: float | None = None
    distance: float = 0.0
    seconds: float = 0.0


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
    score_threshold : float
        Image score at which the verdict changes.
    entropy_threshold : float or None
        Above it the verdict is deferred.
    before, after : Measures
        Of the raw score clipped to [0, 1] and of the probability.
    """

    calibrator: dict[str, Any]
    names: list[str]
    score_threshold: float
    entropy_threshold: float | None
    before: Measures
    after: Measures


class Evaluation(_Model):
    """The result of `robustad.evaluate`.

    Attributes
    ----------
    format : 1
        Version of this document.
    method, dataset, category : str
        What was evaluated on what.
    names, defects : list of str
        The evaluation images.
    labels : list of int
        0 normal, 1 anomalous.
    eps : float
        Radius of all attacks, each in its own norm.
    conditions : dict of str to Condition
        `clean` first, then the attacks, `worst_case` last (if there is an attack).
    calibration : CalibrationReport or None
        None where no calibrator was given or fitted.
    settings : dict
        What else determines the result: attacks, seeds, versions.
    """

    format: Literal[1] = 1
    method: str
    dataset: str
    category: str
    names: list[str]
    defects: list[str]
    labels: list[int]
    eps: float
    conditions: dict[str, Condition]
    calibration: CalibrationReport | None = None
    settings: dict[str, Any] = {}

    @property
    def clean(self) -> Condition:
        """The pass without attack."""
        return self.conditions[CLEAN]

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks, in the order they were run."""
        return [name for name in self.conditions if name not in (CLEAN, WORST)]

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
