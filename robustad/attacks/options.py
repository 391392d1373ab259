"""What a caller may ask of a named attack besides its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from robustad.errors import InputError

if TYPE_CHECKING:
    from robustad.attacks.pool import Pool
    from robustad.attacks.probe import LinearProbe
    from robustad.calibration import Calibrator
    from robustad.detectors.base import PatchScorer

Keep: TypeAlias = Literal["best", "last", "worst"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of one call; None or the default where an attack shall choose.

    Attributes
    ----------
    steps, step_size, random, restarts, keep, probe, surrogate, calibrator, typical, queries, pool,
    query_batch
        See `attack`.
    """

    steps: int | None = None
    step_size: float | None = None
    random: bool = False
    restarts: int = 1
    keep: Keep = "best"
    queries: int | None = None
    probe: LinearProbe | None = None
    surrogate: PatchScorer | Sequence[PatchScorer] | None = None
    calibrator: Calibrator | None = None
    typical: float | None = None
    pool: Pool | None = None
    query_batch: int = 64

    @property
    def given(self) -> list[str]:
        """Names of the schedule's options that are not left at their defaults."""
        changed = {
            "steps": self.steps is not None,
            "step_size": self.step_size is not None,
            "random": self.random,
            "restarts": self.restarts != 1,
            "queries": self.queries is not None,
        }
        return [name for name, there in changed.items() if there]

    @property
    def surrogates(self) -> list[PatchScorer]:
        """All of them; none if there is none."""
        if self.surrogate is None:
            return []
        return [*self.surrogate] if isinstance(self.surrogate, Sequence) else [self.surrogate]

    @property
    def iterate(self) -> Literal["best", "last"]:
        """Which iterate an optimiser shall return."""
        return "last" if self.keep == "last" else "best"


def check_options(options: Options, name: str, takes: frozenset[str]) -> None:
    """Refuse what an attack would ignore.

    Raises
    ------
    InputError
        Naming the first such option.
    """
    for option in options.given:
        if option not in takes:
            known = f"only {', '.join(sorted(takes))}" if takes else "no schedule"
            raise InputError(f"{option}: attack {name!r} does not take it; it takes {known}")
    if options.keep not in ("best", "last", "worst"):
        raise InputError(f"keep: expected 'best', 'last' or 'worst', got {options.keep!r}")
    if options.restarts < 1:
        raise InputError(f"restarts: expected >= 1, got {options.restarts}")
    if options.steps is not None and options.steps < 1:
        raise InputError(f"steps: expected >= 1, got {options.steps}")
    if options.queries is not None and options.queries < 1:
        raise InputError(f"queries: expected >= 1, got {options.queries}")
    if options.query_batch < 1:
        raise InputError(f"query_batch: expected >= 1, got {options.query_batch}")
