"""What a certification found, as one JSON document."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from robustad._files import write_text
from robustad.certificates.orders import FloatArray, Intervals, Sides, reach
from robustad.errors import InputError, StateError

SCHEMA_VERSION: Final = 1


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorRates(_Model):
    """Error rates at one threshold: certified ones are upper bounds, empirical ones counts."""

    threshold: float
    fpr: float
    fnr: float


class CertifiedImage(_Model):
    """One image.

    Attributes
    ----------
    name, defect : str
        As in the data set.
    label : int
        0 normal, 1 anomalous.
    score : float
        Median of its noisy copies' scores, clean.
    draws : int
        Copies that were scored; fewer than asked for after an early stop.
    lower, upper : list of float or None
        Its certified interval at each radius; None for no bound.
    """

    name: str
    defect: str
    label: int
    score: float
    draws: int
    lower: list[float | None]
    upper: list[float | None]


class AttackedPoint(_Model):
    """What attacks found at a radius: an upper bound of robustness, certain of nothing.

    Attributes
    ----------
    auroc : float
        Of each image's worst score over the clean image and all attacks.
    rates : list of ErrorRates
        Of the same scores.
    scores : list of float
        These scores, in the order of the images: medians of new noisy copies of the images found,
        as many as were certified with.
    chosen : list of str
        Which attack each comes from, or `clean`.
    violations : list of str
        Images whose score left its certified interval, widened by what the median of so many
        copies may be off. Each would be a flaw in the certificate or one of its rare failures.
    """

    auroc: float
    rates: list[ErrorRates]
    scores: list[float]
    chosen: list[str]
    violations: list[str]


class CertifiedPoint(_Model):
    """All images at one radius.

    Attributes
    ----------
    radius : float
        l2 length of the perturbation of the whole image, in pixel range.
    auroc : float
        No attack within the radius brings it below this.
    rates : list of ErrorRates
        No attack within the radius brings them above these, one for each threshold.
    abstained : int
        Images without a bound on the side that matters: they count as lost.
    attacked : AttackedPoint or None
        None where no attack was run.
    """

    radius: float
    auroc: float
    rates: list[ErrorRates]
    abstained: int
    attacked: AttackedPoint | None = None


class AnglePoint(_Model):
    """All images while every feature turns by at most an angle; see `feature_bounds`."""

    degrees: float
    auroc: float
    rates: list[ErrorRates]


class MeasuredAngles(_Model):
    """How far one attack turned features. Empirical: other attacks may turn them further.

    Attributes
    ----------
    attack, norm : str
        What was run.
    eps : float
        Its radius.
    median, p99, largest : float
        Of the angles of all patches of all images, in degrees.
    """

    attack: str
    norm: str
    eps: float
    median: float
    p99: float
    largest: float
    certified: Literal[False] = False


class FeatureCertificate(_Model):
    """The nearest-neighbour certificate of the detector before smoothing, in feature space.

    Attributes
    ----------
    auroc : float
        Of the clean scores.
    thresholds : list of float
        At which rates are given; scores of the detector, not of the smoothed one.
    points : list of AnglePoint
        By rising angle.
    measured : list of MeasuredAngles
        For comparison, what attacks on pixels did to the features.
    """

    auroc: float
    thresholds: list[float]
    points: list[AnglePoint]
    measured: list[MeasuredAngles] = []


class Certification(_Model):
    """The result of `robustad.certificates.certify`.

    Attributes
    ----------
    schema_version : 1
        Version of this document; its schema is docs/certification.schema.json.
    model : str
        File name or method of the detector.
    sha256 : str
        Fingerprint of the smoothed detector.
    dataset, category : str
        What it was certified on.
    sigma : float
        Standard deviation of the noise.
    n : int
        Noisy copies an image.
    alpha : float
        Chance that a bound is wrong: of each, or with `simultaneous` of any image's at a radius.
    sides : {"one", "two"}
        Whether `alpha` is of each bound, or of the two together.
    simultaneous : bool
        Whether each image's bounds are held at alpha / images.
    test_draws : int or None
        Bounds are of the median of so many new copies; None for the median itself.
    early : bool
        Whether images may stop before n copies, at the price of wider intervals.
    denoiser : str or None
        Its name.
    seed : int
        Of the noise.
    radii : list of float
        Ascending.
    thresholds : list of float
        Scores of the smoothed detector.
    threshold_source : str
        Where they come from.
    clean_auroc, base_auroc : float
        Of the clean images: smoothed, and before smoothing.
    images : list of CertifiedImage
        All of them.
    points : list of CertifiedPoint
        One a radius.
    attacks : list of str
        That were run.
    features : FeatureCertificate or None
        None where no angles were asked for.
    seconds : float
        Time taken by this run.
    settings : dict
        Versions, and the command.
    """

    schema_version: Literal[1] = 1
    model: str
    sha256: str
    dataset: str = ""
    category: str = ""
    sigma: float
    n: int
    alpha: float
    sides: Sides
    simultaneous: bool
    test_draws: int | None
    early: bool
    denoiser: str | None
    seed: int
    radii: list[float]
    thresholds: list[float]
    threshold_source: str
    clean_auroc: float
    base_auroc: float
    images: list[CertifiedImage]
    points: list[CertifiedPoint]
    attacks: list[str] = []
    features: FeatureCertificate | None = None
    seconds: float = 0.0
    settings: dict[str, Any] = {}

    @property
    def level(self) -> float:
        """Chance that one image's bound, or with two sides its interval, is wrong at a radius."""
        return self.alpha / len(self.images) if self.simultaneous else self.alpha

    @property
    def confidence(self) -> float:
        """At least the chance that one radius' figures hold, all its images together."""
        share = self.alpha if self.simultaneous else self.alpha * len(self.images)
        return max(0.0, 1.0 - share)

    @property
    def reach(self) -> float:
        """Largest radius at which n copies give a bound; that of the median itself."""
        return max(0.0, self.sigma * reach(self.n, alpha=self.level, sides=self.sides))

    @property
    def violations(self) -> int:
        """Attacked scores outside of their certified intervals, over all radii."""
        return sum(len(one.attacked.violations) for one in self.points if one.attacked)

    def intervals(self) -> Intervals:
        """Bounds (images, radii), infinite where there are none."""
        return Intervals(
            _array([one.lower for one in self.images], -math.inf),
            _array([one.upper for one in self.images], math.inf),
        )

    def at(self, radius: float) -> CertifiedPoint:
        """Figures of one radius.

        Raises
        ------
        InputError
            If it is none of the radii.
        """
        for point in self.points:
            if math.isclose(point.radius, radius, rel_tol=1e-9, abs_tol=1e-12):
                return point
        raise InputError(f"radius: expected one of {self.radii}, got {radius}")

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
            If it is no certification of this version.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such certification file")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise StateError(f"{path}: not a certification: {where}: {first['msg']}") from error


def certification_schema() -> str:
    """JSON schema of a certification, as committed in `docs/certification.schema.json`."""
    return json.dumps(Certification.model_json_schema(mode="serialization"), indent=2) + "\n"


def write_certification_schema(path: str | Path) -> None:
    """Write `certification_schema` to a file."""
    write_text(path, certification_schema())


def _array(rows: list[list[float | None]], missing: float) -> FloatArray:
    return np.array([[missing if v is None else v for v in row] for row in rows], np.float64)
