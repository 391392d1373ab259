"""Flags that single out attacked images, above all the predictive entropy.

An image is flagged where its entropy is *above* the threshold, as `robustad.verdict.Policy`
defers it. All entropies are in nats, in [0, ln 2].
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustad.metrics._checks import FloatArray, check_entropies, check_fraction, check_scores
from robustad.metrics.ranking import allowed_alarms, auroc


class FlagCurve(NamedTuple):
    """ROC curve of a flag, from no alarm to all alarms.

    Attributes
    ----------
    false_alarm : array, (T,), in [0, 1], ascending
        Share of the clean images flagged.
    detection : array, (T,), in [0, 1], ascending
        Share of the attacked images flagged.
    threshold : array, (T,), descending
        Images whose value is at least this are flagged; infinite at first.
    """

    false_alarm: FloatArray
    detection: FloatArray
    threshold: FloatArray


class FlagRates(NamedTuple):
    """What a threshold on the entropy flags.

    Attributes
    ----------
    false_alarm : float in [0, 1]
        Share of the clean images flagged.
    detection : float in [0, 1]
        Share of the attacked images flagged.
    """

    false_alarm: float
    detection: float


def flag_auroc(clean_entropy: npt.ArrayLike, attacked_entropy: npt.ArrayLike) -> float:
    """Chance that an attacked image has a higher entropy than a clean one.

    Parameters
    ----------
    clean_entropy : array, (n,)
        Entropies of clean images.
    attacked_entropy : array, (m,)
        Entropies of attacked images.

    Returns
    -------
    float in [0, 1]
        0.5 is a useless flag. Below 0.5 the attack makes the detector *more* certain, which a
        threshold on the entropy cannot catch.

    Raises
    ------
    InputError
        If an array is empty or not 1-D, or an entropy is NaN or outside [0, ln 2].

    Examples
    --------
    >>> flag_auroc([0.1, 0.2, 0.6], [0.6, 0.65]).__round__(4)
    0.9167
    """
    clean = check_entropies(clean_entropy, "clean_entropy")
    attacked = check_entropies(attacked_entropy, "attacked_entropy")
    return auroc(np.concatenate([clean, attacked]), np.repeat([0, 1], [clean.size, attacked.size]))


def flag_curve(clean: npt.ArrayLike, attacked: npt.ArrayLike) -> FlagCurve:
    """Trace false alarms against detections over all thresholds of a flag.

    Parameters
    ----------
    clean : array, (n,)
        Finite values of clean images, high where the flag is raised: entropies, or one minus a
        p-value.
    attacked : array, (m,)
        Values of attacked images.

    Returns
    -------
    FlagCurve
        Without the points that lie on a line between their neighbours.

    Raises
    ------
    InputError
        If an array is empty or not 1-D, or a value is not finite.

    Examples
    --------
    >>> curve = flag_curve([0.1, 0.2, 0.6], [0.6, 0.65])
    >>> curve.false_alarm.round(2).tolist(), curve.detection.tolist()
    ([0.0, 0.0, 0.33, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    from sklearn.metrics import roc_curve

    before, after = check_scores(clean, "clean"), check_scores(attacked, "attacked")
    truth = np.repeat([0, 1], [before.size, after.size])
    return FlagCurve(*roc_curve(truth, np.concatenate([before, after])))


def flag_rates(
    clean_entropy: npt.ArrayLike, attacked_entropy: npt.ArrayLike, threshold: float
) -> FlagRates:
    """Compute the false alarm and the detection rate of the flag.

    Parameters
    ----------
    clean_entropy : array, (n,)
        Entropies of clean images.
    attacked_entropy : array, (m,)
        Entropies of attacked images.
    threshold : float in [0, ln 2]
        Flag above this, in nats.

    Returns
    -------
    FlagRates
        `(false_alarm, detection)`.

    Raises
    ------
    InputError
        As `flag_auroc`, or if `threshold` lies outside [0, ln 2].

    Examples
    --------
    >>> flag_rates([0.1, 0.2, 0.6, 0.3], [0.6, 0.65], threshold=0.5)
    FlagRates(false_alarm=0.25, detection=1.0)
    """
    clean = check_entropies(clean_entropy, "clean_entropy")
    attacked = check_entropies(attacked_entropy, "attacked_entropy")
    [limit] = check_entropies([threshold], "threshold")
    return FlagRates(
        false_alarm=float((clean > limit).mean()), detection=float((attacked > limit).mean())
    )


def entropy_threshold(clean_entropy: npt.ArrayLike, false_alarm: float = 0.05) -> float:
    """Smallest threshold that flags at most a share `false_alarm` of the given clean images.

    Parameters
    ----------
    clean_entropy : array, (n,)
        Entropies of clean images, normal and anomalous ones in the mix expected in use.
    false_alarm : float in [0, 1), default 0.05
        The share to allow. Below 1/n none is allowed.

    Returns
    -------
    float in [0, ln 2]
        The (k + 1)-th largest entropy, k = floor(n * false_alarm): flags are strictly above it.

    Raises
    ------
    InputError
        As `flag_auroc`, or if `false_alarm` lies outside [0, 1).

    Notes
    -----
    On new clean images exchangeable with the given ones the chance of a flag is at most
    (k + 1) / (n + 1), averaged over draws of the n images.

    Examples
    --------
    >>> entropy_threshold([0.1, 0.2, 0.6, 0.3], false_alarm=0.25)
    0.3
    """
    clean = check_entropies(clean_entropy, "clean_entropy")
    rate = check_fraction(false_alarm, "false_alarm", high=False)
    return float(np.sort(clean)[::-1][allowed_alarms(rate, clean.size)])
