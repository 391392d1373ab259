"""Conformal risk control: a parameter that keeps a monotone loss small on average."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from robustad.conformal._checks import check_rate
from robustad.errors import InputError, StateError
from robustad.metrics._checks import FloatArray, check_scores

ROUNDING = 1e-12  # of a mean of losses: a bound met exactly must not be missed by a last digit


@dataclass(frozen=True, kw_only=True)
class RiskThreshold:
    """A parameter chosen by risk control, and what is promised of it.

    Attributes
    ----------
    value : float
        The parameter, for instance a pixel threshold; may be infinite.
    loss : str
        What is bounded, for instance "pixel_miss".
    alpha : float in (0, 1)
        Bound of the expected loss.
    n : int
        Held-out images.
    risk : float
        Their mean loss at `value`.
    """

    value: float
    loss: str
    alpha: float
    n: int
    risk: float

    @property
    def guarantee(self) -> str:
        """What is promised, in words."""
        return (
            f"{self.loss.replace('_', ' ')} is at most {100 * self.alpha:g}% on average over "
            f"images like the {self.n} held-out ones, and over such sets of {self.n}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All attributes, ready for JSON; an infinite value becomes a string."""
        value = self.value if math.isfinite(self.value) else str(self.value)
        return {**asdict(self), "value": value}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` gave.

        Raises
        ------
        StateError
            If a key is missing or unknown, or a value is no number.
        """
        try:
            found = cls(**{**state, "value": float(state["value"])})
            check_rate(found.alpha, "alpha")
            if math.isnan(found.value) or found.n < 1:
                raise ValueError(f"value {found.value}, n {found.n}")
        except (TypeError, ValueError, KeyError) as error:
            raise StateError(f"risk control: damaged: {error}") from error
        return found


class RiskControl:
    """Sums up losses image by image, and chooses among candidate parameters.

    Parameters
    ----------
    candidates : array-like, (L,)
        Parameters to choose from, strictly ascending, fixed before any loss is seen; the ends may
        be infinite.
    rising : bool
        Whether each image's loss rises with the parameter (then the largest safe one is chosen)
        or falls (the smallest).
    bound : float > 0, default 1
        Largest loss there can be.
    loss : str, default "loss"
        Name of the loss.

    Raises
    ------
    InputError
        If the candidates are not ascending or the bound is not a positive number.

    Notes
    -----
    Angelopoulos, Bates, Fisch, Lei & Schuster, "Conformal risk control" (ICLR 2024), theorem 1:
    the safest candidate whose losses satisfy n/(n+1) mean + bound/(n+1) <= alpha has an expected
    loss of at most alpha on a new image exchangeable with the n, where the loss of every image is
    monotone and at most alpha at the safest end. The expectation is over the n images as well.
    Memory is that of L numbers, however many images come.

    Examples
    --------
    >>> control = RiskControl([0.0, 1.0, 2.0], rising=True)
    >>> for losses in ([0, 0, 1], [0, 0.1, 1], [0, 0.2, 1], [0, 0.1, 1]):
    ...     control.update(losses)
    >>> control.choose(0.3).value
    1.0
    """

    def __init__(
        self,
        candidates: npt.ArrayLike,
        *,
        rising: bool,
        bound: float = 1.0,
        loss: str = "loss",
    ) -> None:
        grid = np.asarray(candidates, np.float64)
        if grid.ndim != 1 or not grid.size or not bool((np.diff(grid) > 0).all()):
            raise InputError(
                f"candidates: expected strictly ascending numbers (L,), got {grid.shape}"
            )
        if not 0.0 < bound < math.inf:
            raise InputError(f"bound: expected a finite number > 0, got {bound}")
        self.candidates, self.rising, self.bound, self.loss = grid, rising, float(bound), loss
        self.n = 0
        self._total = np.zeros(grid.size)

    def update(self, losses: npt.ArrayLike) -> None:
        """Take in one image.

        Parameters
        ----------
        losses : array-like, (L,), in [0, bound]
            Its loss at each candidate.

        Raises
        ------
        InputError
            If a loss is not finite or out of range, or the losses are not monotone.
        """
        values = check_scores(losses, "losses")
        if values.size != self.candidates.size:
            raise InputError(
                f"losses: expected one a candidate, {self.candidates.size}, got {values.size}"
            )
        if values.min() < 0.0 or values.max() > self.bound:
            raise InputError(
                f"losses: expected values in [0, {self.bound:g}], got "
                f"{values.min():g}..{values.max():g}"
            )
        steps = np.diff(values if self.rising else values[::-1])
        if values.size > 1 and steps.min() < -ROUNDING:
            which = "rise" if self.rising else "fall"
            raise InputError(
                f"losses: expected losses that {which} with the candidates, got one that does not: "
                "risk control needs a monotone loss"
            )
        self._total += values
        self.n += 1

    @property
    def risk(self) -> FloatArray:
        """Mean loss (L,) at each candidate; NaN before the first image."""
        return self._total / self.n if self.n else np.full(self.candidates.size, np.nan)

    def choose(self, alpha: float) -> RiskThreshold:
        """Choose the candidate farthest from the safe end that keeps the promise.

        Parameters
        ----------
        alpha : float in (0, 1)
            Bound of the expected loss, in the unit of the loss.

        Returns
        -------
        RiskThreshold
            Candidate, promise and mean loss.

        Raises
        ------
        InputError
            If `alpha` lies outside (0, 1), there are too few images for it, or even the safest
            candidate loses too much.
        """
        return chosen(
            self.candidates,
            self._total,
            self.n,
            alpha,
            rising=self.rising,
            bound=self.bound,
            loss=self.loss,
        )


def control_risk(
    losses: npt.ArrayLike,
    candidates: npt.ArrayLike,
    alpha: float,
    *,
    rising: bool,
    bound: float = 1.0,
) -> RiskThreshold:
    """Choose a parameter from the losses (n, L) of n images at L candidates; see `RiskControl`.

    Parameters
    ----------
    losses : array-like, (n, L), in [0, bound]
        A row an image, monotone along the candidates.
    candidates, rising, bound
        As for `RiskControl`.
    alpha : float in (0, 1)
        Bound of the expected loss.

    Returns
    -------
    RiskThreshold
        As of `RiskControl.choose`.

    Raises
    ------
    InputError
        As `RiskControl`.

    Examples
    --------
    >>> found = control_risk([[0.0, 0.0, 1.0]] * 9, [1, 2, 3], 0.1, rising=True)
    >>> found.value, found.risk
    (2.0, 0.0)
    """
    rows = np.asarray(losses, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"losses: expected shape (n, L), got {rows.shape}")
    control = RiskControl(candidates, rising=rising, bound=bound)
    for row in rows:
        control.update(row)
    return control.choose(alpha)


def chosen(
    candidates: FloatArray,
    total: FloatArray,
    n: int,
    alpha: float,
    *,
    rising: bool,
    bound: float = 1.0,
    loss: str = "loss",
) -> RiskThreshold:
    """Choose among candidates by the summed losses (L,) of n images; see `RiskControl.choose`."""
    limit = check_rate(alpha, "alpha")
    if n < 1:
        raise InputError("losses: expected those of at least one held-out image, got none")
    safe = (total + bound) / (n + 1) <= limit + ROUNDING
    if not safe.any():
        fewest = math.ceil(bound / limit - 1.0 - ROUNDING)
        if n < fewest:
            raise InputError(
                f"alpha: {limit:g} cannot be promised from {n} held-out images, it takes at least "
                f"{fewest}"
            )
        least = float(total.min()) / n
        raise InputError(
            f"alpha: no candidate keeps {limit:g}, the safest one loses {least:g} on average"
        )
    # Monotone losses make the safe ones a run that starts at the safe end.
    index = int(np.flatnonzero(safe)[-1 if rising else 0])
    return RiskThreshold(
        value=float(candidates[index]),
        loss=loss,
        alpha=limit,
        n=n,
        risk=float(total[index]) / n,
    )
