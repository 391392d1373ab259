"""Many images at once: which of a batch are anomalous, at a stated false discovery rate."""

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from robustad.conformal._checks import check_rate
from robustad.errors import InputError
from robustad.metrics._checks import FloatArray, check_fraction, check_probabilities

# p-values are fractions of whole numbers, so that a rate is often met exactly: it must not be
# missed by a last digit.
ROUNDING = 1e-12
Dependence: TypeAlias = Literal["positive", "any"]


def benjamini_hochberg(
    p_values: npt.ArrayLike,
    fdr: float,
    *,
    null_share: float = 1.0,
    dependence: Dependence = "positive",
) -> npt.NDArray[np.bool_]:
    """Choose images of a batch as anomalous so that few of the chosen are normal.

    Parameters
    ----------
    p_values : array-like, (B,), in [0, 1]
        One an image, as of `p_values`.
    fdr : float in (0, 1)
        Bound of the false discovery rate: the expected share of normal images among the chosen
        ones (0 where none is chosen).
    null_share : float in (0, 1], default 1
        Share of normal images in the batch where something is known of it, see
        `storey_null_share`; 1 is always right.
    dependence : {"positive", "any"}, default "positive"
        "any" pays a factor of about ln B for needing nothing of how the p-values depend on each
        other (Benjamini & Yekutieli 2001).

    Returns
    -------
    array, (B,), bool
        True for the chosen ones: those whose `adjusted_p_values` are at most `fdr`.

    Raises
    ------
    InputError
        If a p-value is not in [0, 1], there is none, or an option is out of range.

    Notes
    -----
    Benjamini & Hochberg (1995). The p-values of a batch share one calibration set, so they are
    not independent: one high calibration score raises all of them. That dependence is positive
    (PRDS: positive regression dependent on a subset), which Bates et al., "Testing for outliers
    with conformal p-values" (Annals of Statistics 2023), prove for split conformal p-values of
    scores without ties, and which suffices for FDR <= `fdr` (Benjamini & Yekutieli 2001). It
    takes independent images and a calibration set they are exchangeable with. For leave-one-out
    and jackknife+ p-values no such proof is known: take dependence="any".

    With n calibration images no p-value is below 1 / (n + 1). Where K of B images are anomalous,
    nothing can be chosen unless 1 / (n + 1) <= fdr K / B.

    Examples
    --------
    >>> benjamini_hochberg([0.005, 0.009, 0.02, 0.4, 0.9], 0.05).tolist()
    [True, True, True, False, False]
    """
    rate = check_rate(fdr, "fdr")
    adjusted = adjusted_p_values(p_values, null_share=null_share, dependence=dependence)
    return adjusted <= rate * (1.0 + ROUNDING)


def adjusted_p_values(
    p_values: npt.ArrayLike, *, null_share: float = 1.0, dependence: Dependence = "positive"
) -> FloatArray:
    """Lowest false discovery rate at which each image of a batch would be chosen.

    Parameters
    ----------
    p_values, null_share, dependence
        As for `benjamini_hochberg`.

    Returns
    -------
    array, (B,), float64 in [0, 1]
        Ordered as the p-values are; min over ranks j >= i of p_(j) B / j, times `null_share`.

    Raises
    ------
    InputError
        As `benjamini_hochberg`.

    Examples
    --------
    >>> adjusted_p_values([0.01, 0.9, 0.02, 0.03]).round(4).tolist()
    [0.04, 0.9, 0.04, 0.04]
    """
    p = check_probabilities(p_values, "p_values")
    share = check_fraction(null_share, "null_share", low=False)
    if dependence not in ("positive", "any"):
        raise InputError(f"dependence: expected 'positive' or 'any', got {dependence!r}")
    order = np.argsort(p, kind="stable")
    rank = np.arange(1, p.size + 1)
    factor = share * (float((1.0 / rank).sum()) if dependence == "any" else 1.0)
    scaled = p[order] * (p.size * factor) / rank
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1.0)
    return adjusted


def storey_null_share(p_values: npt.ArrayLike, *, above: float = 0.5) -> float:
    """Estimate the share of normal images in a batch from its large p-values.

    Parameters
    ----------
    p_values : array-like, (B,), in [0, 1]
        One an image.
    above : float in (0, 1), default 0.5
        p-values above this are taken to come from normal images.

    Returns
    -------
    float in (0, 1]
        (1 + #{p > above}) / (B (1 - above)), at most 1.

    Raises
    ------
    InputError
        If a p-value is not in [0, 1], there is none, or `above` lies outside (0, 1).

    Notes
    -----
    Storey, Taylor & Siegmund (2004). Bates et al. (2023) show that FDR control survives this
    estimate for split conformal p-values whose `above` is a multiple of 1 / (n + 1).

    Examples
    --------
    >>> storey_null_share([0.01, 0.01, 0.02, 0.3, 0.7, 0.9])
    1.0
    >>> round(storey_null_share([0.01] * 9 + [0.8]), 3)
    0.4
    """
    p = check_probabilities(p_values, "p_values")
    level = check_rate(above, "above")
    return min(1.0, (1.0 + int((p > level).sum())) / (p.size * (1.0 - level)))
