"""One evaluation as an entry that others can check and compare: a versioned JSON document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustad._files import write_text
from robustad.attacks import preset
from robustad.errors import InputError, StateError
from robustad.evaluation.result import CLEAN, WORST, Condition, Evaluation, eps_name

SCHEMA_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


class ThreatModel(_Record):
    """What the attacker may do and see."""

    norm: list[Literal["linf", "l2", "l1"]] = Field(
        description="Norms of the balls; the worst case is over all of them."
    )
    eps: list[float] = Field(description="Radii as fractions of the pixel range; first the main.")
    access: list[Literal["white", "score", "decision", "transfer"]] = Field(
        description="What attacks saw: gradients, scores, verdicts, or another model."
    )
    goal: Literal["both classes"] = Field(
        default="both classes",
        description="Normal images are made to look anomalous and anomalous ones normal.",
    )


class AttackRecord(_Record):
    """One attack at one radius."""

    name: str = Field(description="As `robustad.attack` takes it.")
    eps: float
    norm: Literal["linf", "l2", "l1"]
    access: Literal["white", "score", "decision", "transfer"]
    forward: float | None = Field(description="Mean forward passes an image.")
    backward: float | None = Field(description="Mean backward passes an image.")
    seconds: float = Field(description="Wall time for all images.")


class DataRecord(_Record):
    """The images."""

    name: str
    category: str
    sha256: str = Field(description="Over names, labels and contents of images and masks.")
    normal: int
    anomalous: int


class DetectorRecord(_Record):
    """The model."""

    method: str
    sha256: str = Field(description="Over configuration and all tensors.")


class Figures(_Record):
    """One row of figures, fractions of 1; null where not measured."""

    condition: str = Field(description="`clean`, an attack, or `worst_case`.")
    eps: float | None = Field(description="Radius; null for `clean`.")
    auroc: float
    auroc_interval: tuple[float, float] | None = Field(description="95% bootstrap over images.")
    ap: float
    fpr: float | None = Field(description="At a threshold fixed on other, clean images.")
    fnr: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    aupro: float | None


class CheckRecord(_Record):
    """One question that the evaluation asked itself."""

    name: str
    fired: bool | None
    sentence: str


class Entry(_Record):
    """A leaderboard entry; see `docs/leaderboard.schema.json`."""

    schema_version: Literal[1] = 1
    robustad: str = Field(description="Version that made it.")
    detector: DetectorRecord
    data: DataRecord
    threat_model: ThreatModel
    attacks: list[AttackRecord]
    figures: list[Figures]
    checks: list[CheckRecord] = Field(description="Any that fired puts the figures in doubt.")

    @classmethod
    def of(cls, evaluation: Evaluation) -> Self:
        """Make an entry of an evaluation.

        Raises
        ------
        InputError
            If it has no attack, or no hashes, as one of version 1.
        """
        if {"detector", "data"} - evaluation.hashes.keys():
            raise InputError(
                "evaluation: expected hashes of detector and data, got none; evaluate again with "
                "this version"
            )
        names = evaluation.settings.get("attacks", [])
        if not names:
            raise InputError("evaluation: expected at least one attack, got the clean pass alone")
        presets = [preset(name) for name in names]
        anomalous = sum(evaluation.labels)
        return cls(
            robustad=str(evaluation.settings.get("robustad", "")),
            detector=DetectorRecord(method=evaluation.method, sha256=evaluation.hashes["detector"]),
            data=DataRecord(
                name=evaluation.dataset,
                category=evaluation.category,
                sha256=evaluation.hashes["data"],
                normal=len(evaluation.labels) - anomalous,
                anomalous=anomalous,
            ),
            threat_model=ThreatModel(
                norm=sorted({one.norm for one in presets}),
                eps=evaluation.epsilons,
                access=sorted({one.access for one in presets}),
            ),
            attacks=[
                record
                for eps in evaluation.epsilons
                for name, one in evaluation.at(eps).items()
                if name != WORST
                for record in [_attack(name, one)]
            ],
            figures=[_figures(one) for one in evaluation.conditions.values()],
            checks=[
                CheckRecord(name=check.name, fired=check.fired, sentence=check.sentence)
                for check in evaluation.checks
            ],
        )

    def figure(self, condition: str = WORST, eps: float | None = None) -> Figures | None:
        """One row by condition and radius (default the main one); None where there is none."""
        if condition != CLEAN and eps is None:
            eps = self.threat_model.eps[0]
        for row in self.figures:
            same = row.eps is None or (eps is not None and eps_name(row.eps) == eps_name(eps))
            if row.condition == condition and same:
                return row
        return None

    def save(self, path: str | Path) -> None:
        """Write to a JSON file, whole or not at all."""
        write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an entry, or make one of an evaluation's JSON file.

        Raises
        ------
        InputError
            If there is no such file, or the evaluation has no attack or hashes.
        StateError
            If it is neither, or of a newer version.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such leaderboard or evaluation file")
        try:
            document = json.loads(path.read_bytes())
        except ValueError as error:
            raise StateError(f"{path}: not a JSON document: {error}") from error
        if not isinstance(document, dict) or "schema_version" not in document:
            return cls.of(Evaluation.load(path))
        version = document["schema_version"]
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise StateError(
                f"{path}: written by a newer robustad (leaderboard version {version}, this one "
                f"reads up to {SCHEMA_VERSION}); upgrade robustad"
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise StateError(f"{path}: not a leaderboard entry: {where}: {first['msg']}") from error


def leaderboard_schema() -> str:
    """JSON schema of an entry, as committed in `docs/leaderboard.schema.json`."""
    return json.dumps(Entry.model_json_schema(mode="serialization"), indent=2) + "\n"


def write_leaderboard_schema(path: str | Path) -> None:
    """Write `leaderboard_schema` to a file."""
    write_text(path, leaderboard_schema())


def _attack(name: str, one: Condition) -> AttackRecord:
    found = preset(name)
    return AttackRecord(
        name=name,
        eps=one.eps or 0.0,
        norm=found.norm,
        access=found.access,
        forward=_mean(one.forward),
        backward=_mean(one.backward),
        seconds=one.seconds,
    )


def _mean(counts: list[int] | None) -> float | None:
    return sum(counts) / len(counts) if counts else None


def _figures(one: Condition) -> Figures:
    metrics = one.metrics
    return Figures(
        condition=one.name.partition("@")[0],
        eps=one.eps,
        auroc=metrics.auroc,
        auroc_interval=metrics.auroc_interval,
        ap=metrics.ap,
        fpr=metrics.fpr,
        fnr=metrics.fnr,
        pixel_auroc=metrics.pixel_auroc,
        pixel_ap=metrics.pixel_ap,
        aupro=metrics.aupro,
    )
