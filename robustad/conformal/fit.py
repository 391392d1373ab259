"""Giving a detector p-values, and verdicts with a promise, from normal images alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import numpy.typing as npt

from robustad.conformal.left_out import LeftOut
from robustad.conformal.pixels import PixelLoss, PixelRisk
from robustad.conformal.scores import METHODS, ConformalScores, Method
from robustad.errors import InputError

if TYPE_CHECKING:
    from robustad.data import Sample
    from robustad.detectors import Detector
    from robustad.images import Images

    D = TypeVar("D", bound=Detector)


def fit(
    detector: D,
    normals: Images | None = None,
    *,
    scores: npt.ArrayLike | None = None,
    method: Method = "split",
    folds: int | None = None,
    anomalies: Images | None = None,
    anomalous_scores: npt.ArrayLike | None = None,
    fpr: float | None = 0.05,
    confidence: float | None = None,
    defer: float | None = None,
    suspicion: float | None = None,
    fnr: float | None = None,
    batch_size: int = 8,
) -> D:
    """Give a detector held-out scores and put error rates into its policy; no anomaly needed.

    Parameters
    ----------
    detector : Detector
        Changed in place: `conformal` and the p-value parts of `policy` are set. A calibrator and
        the other parts of the policy stay as they are. A warning says so if `normals` seem to be
        in its memory bank.
    normals : path, folder, PIL image, array, tensor, or an iterable of these, optional
        Normal images. With method "split" held out: none of them may have been used to fit the
        detector or to choose anything about it. With the other methods those it was fitted on.
    scores : array-like, (n,), optional
        The scores of held-out normal images in their place; with method "split" only.
    method : {"split", "leave_one_out", "cross"}, default "split"
        See `ConformalScores` for what each promises. "cross" leaves out one of `folds` at a time.
    folds : int in 2..n, optional
        Of method "cross".
    anomalies, anomalous_scores : optional
        Held-out anomalous images, or their scores, for `fnr`.
    fpr : float in (0, 1) or None, default 0.05
        Share of normal parts that may be rejected; None for no such rule.
    confidence : float in (0, 1), optional
        That this very set of held-out images keeps `fpr` and `fnr`; without it they are kept on
        average over such sets. Needs method "split" and more images (`smallest_n`).
    defer : float in (0, 1), optional
        Share of normal parts that may be rejected or deferred for their p-value; above `fpr`.
    suspicion : float in (0, 1), optional
        Share of normal parts that may be deferred because they score too low.
    fnr : float in (0, 1), optional
        Share of anomalous parts that may be accepted.
    batch_size : int, default 8
        Images scored at once.

    Returns
    -------
    Detector
        The same one.

    Raises
    ------
    InputError
        If images and scores are given both or neither, the detector was not fitted on the images
        that are to be left out (checked of `AnomalyDINO` alone), there are too few for a rate (the
        message says how many it takes), a score is not finite, all are the same, or an option is
        out of range. The detector is unchanged then.

    Examples
    --------
    >>> import numpy as np
    >>> import robustad
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(0, 50, (24, 64, 64, 3), dtype=np.uint8)
    >>> detector = robustad.AnomalyDINO("filters", image_size=64).fit(normal[:4])
    >>> detector = fit(detector, normal[4:], fpr=0.1)
    >>> defect = normal[:1].copy()
    >>> defect[:, 20:40, 20:40] = 255
    >>> prediction = detector.predict(defect)
    >>> round(float(prediction.p_value[0]), 4), str(prediction.verdict[0])
    (0.0476, 'reject')
    """
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if (normals is None) == (scores is None):
        raise InputError("normals: expected either images or scores, got both or neither")
    if (method == "cross") == (folds is None):
        raise InputError(f"folds: expected a number with method 'cross' alone, got {folds}")
    if anomalies is not None and anomalous_scores is not None:
        raise InputError("anomalies: expected either images or scores, got both")
    monotone = False
    if method == "split":
        held_out = scores
        if normals is not None:
            from robustad.detectors.seen import warn_of_fitted

            predicted = detector.predict(normals, batch_size=batch_size)
            warn_of_fitted(detector, predicted, "normals")
            held_out = predicted.score
    elif normals is None:
        raise InputError(f"scores: method {method!r} needs the images that it was fitted on")
    else:
        left_out = LeftOut(detector, normals, folds=folds)
        left_out.check_fitted(detector)
        held_out, monotone = left_out.scores, left_out.monotone
    if anomalies is not None:
        anomalous_scores = detector.predict(anomalies, batch_size=batch_size).score
    assert held_out is not None
    conformal = ConformalScores(
        held_out, anomalous=anomalous_scores, method=method, monotone=monotone
    )
    detector.policy = conformal.policy(
        detector.policy,
        fpr=fpr,
        confidence=confidence,
        defer=defer,
        suspicion=suspicion,
        fnr=fnr,
    )
    detector.conformal = conformal
    return detector


def fit_pixels(
    detector: D, samples: Iterable[Sample], *, alpha: float = 0.1, loss: PixelLoss = "pixel_miss"
) -> D:
    """Set the map value from which pixels are marked, with a bounded pixel error.

    Parameters
    ----------
    detector : Detector
        Changed in place: `pixel_threshold` is set.
    samples : iterable of Sample
        Held-out images. For "pixel_miss" the anomalous ones count, each of which needs a mask; for
        "pixel_false_alarm" the normal ones.
    alpha : float in (0, 1), default 0.1
        Bound of the expected share of pixels lost, an image.
    loss : {"pixel_miss", "pixel_false_alarm"}, default "pixel_miss"
        See `PixelRisk`.

    Returns
    -------
    Detector
        The same one.

    Raises
    ------
    InputError
        If there is no such image, one lacks its mask, or there are too few for `alpha`. The
        detector is unchanged then.
    """
    risk = PixelRisk(loss)
    for sample in samples:
        if (sample.label == 1) != (loss == "pixel_miss"):
            continue
        mask = None
        if loss == "pixel_miss":
            mask = sample.read_mask()
            if mask is None:
                raise InputError(f"{sample.name}: expected a mask of its defect, got none")
        [anomaly_map] = detector.predict([sample.image]).anomaly_map
        risk.update(anomaly_map, mask)
    if not risk.n:
        which = "anomalous" if loss == "pixel_miss" else "normal"
        raise InputError(f"samples: expected held-out {which} images, got none")
    detector.pixel_threshold = risk.choose(alpha)
    return detector
