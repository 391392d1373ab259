"""What an evaluation is to do, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from robustad.attacks import preset
from robustad.data import Sample
from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.evaluation.result import AT, WORST, eps_name

Precision = Literal["fp32", "bf16"]
Shard = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One attack at one radius, and the name of its condition."""

    attack: str
    eps: float
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The options of `robustad.evaluate`; see there.

    Attributes
    ----------
    cases : list of Case
        Every attack at every radius, as asked for.
    """

    samples: Sequence[Sample]
    held_out: Sequence[Sample] = ()
    attacks: Sequence[str] = ()
    eps: float | Sequence[float] = 8 / 255
    pixel: bool = True
    batch_size: int = 8
    restarts: int = 1
    seed: int = 0
    threshold: float | None = None
    precision: Precision = "fp32"
    skip_beaten: bool = False
    surrogates: Sequence[Detector] = ()
    radii: tuple[float, ...] = field(init=False)
    cases: tuple[Case, ...] = field(init=False)

    def __post_init__(self) -> None:
        radii = (self.eps,) if isinstance(self.eps, int | float) else tuple(self.eps)
        object.__setattr__(self, "radii", tuple(map(float, radii)))
        self._check_options()
        self._check_samples()
        cases = tuple(
            Case(name, eps, named(name, eps, self.radii))
            for eps in self.radii
            for name in self.attacks
        )
        object.__setattr__(self, "cases", cases)

    @property
    def ascending(self) -> list[float]:
        """Radii from the smallest: what lies in a small ball lies in the larger ones."""
        return sorted(self.radii)

    def at(self, eps: float) -> list[Case]:
        """Cases of one radius."""
        return [case for case in self.cases if case.eps == eps]

    def worst(self, eps: float) -> str:
        """Name of the worst case at a radius."""
        return named(WORST, eps, self.radii)

    @property
    def probes(self) -> bool:
        """Whether an attack takes its gradient from a linear probe."""
        return any("probe" in preset(name).needs for name in self.attacks)

    def _check_options(self) -> None:
        for name in self.attacks:
            preset(name)
        _distinct("attacks", self.attacks)
        if not self.radii:
            raise InputError("eps: expected at least one radius, got none")
        for eps in self.radii:
            if not 0.0 < eps < float("inf"):
                raise InputError(f"eps: expected a finite radius > 0, got {eps}")
            linf = [name for name in self.attacks if preset(name).norm == "linf"]
            if eps > 1.0 and linf:
                raise InputError(
                    f"eps: expected a fraction of the pixel range in (0, 1] for {linf[0]}, "
                    f"got {eps}"
                )
        _distinct("eps", [eps_name(eps) for eps in self.radii])
        for name in ("batch_size", "restarts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected >= 1, got {getattr(self, name)}")
        transfer = [name for name in self.attacks if "surrogate" in preset(name).needs]
        if transfer and not self.surrogates:
            raise InputError(f"surrogates: attack {transfer[0]!r} needs a differentiable stand-in")
        if self.precision not in ("fp32", "bf16"):
            raise InputError(f"precision: expected fp32 or bf16, got {self.precision!r}")

    def _check_samples(self) -> None:
        overlap = sorted({s.name for s in self.samples} & {s.name for s in self.held_out})
        if overlap:
            raise InputError(
                f"calibration: expected images that are not evaluated on, but {len(overlap)} are "
                f"in both, first {overlap[0]!r}"
            )
        labels = [sample.label for sample in self.samples]
        if set(labels) != {0, 1}:
            raise InputError(
                "samples: expected both normal and anomalous images, got "
                f"{labels.count(0)} normal and {labels.count(1)} anomalous"
            )
        if self.probes and not self.held_out:
            raise InputError(
                "calibration: attack 'fgsm_probe' fits its probe on calibration images"
            )


def named(what: str, eps: float, radii: Sequence[float]) -> str:
    """Name of a condition: the first radius goes without saying.

    Examples
    --------
    >>> named("pgd10", 8 / 255, [8 / 255, 2 / 255]), named("pgd10", 2 / 255, [8 / 255, 2 / 255])
    ('pgd10', 'pgd10@2/255')
    """
    return what if eps == radii[0] else f"{what}{AT}{eps_name(eps)}"


def check_shard(shard: Shard) -> Shard:
    """Check (i, n), the i-th of n parts.

    Raises
    ------
    InputError
        If it is not 1 <= i <= n.
    """
    if len(shard) != 2 or not 1 <= shard[0] <= shard[1]:
        raise InputError(f"shard: expected (i, n) with 1 <= i <= n such as (2, 4), got {shard}")
    return shard


def _distinct(what: str, values: Sequence[str]) -> None:
    twice = sorted({value for value in values if list(values).count(value) > 1})
    if twice:
        raise InputError(f"{what}: expected each once, got {', '.join(twice)} several times")
