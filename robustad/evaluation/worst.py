"""The worst case image by image: exact for image scores, by a stated rule for pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def worst_of(scores: npt.ArrayLike, labels: Labels) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Each image's worst score over several passes, and the pass it comes from.

    Parameters
    ----------
    scores : array, (passes, n)
        Image scores of every pass.
    labels : array, (n,), 0 or 1
        Normal images count at their highest score, anomalous ones at their lowest.

    Returns
    -------
    score : array, (n,)
        AUROC is monotone in each score: no other choice of one pass an image has a lower one.
    chosen : array of int, (n,)
        The first pass that has it.

    Examples
    --------
    >>> score, chosen = worst_of([[0.1, 0.9], [0.3, 0.8]], np.array([0, 1]))
    >>> score.tolist(), chosen.tolist()
    ([0.3, 0.8], [1, 1])
    """
    stacked = np.asarray(scores, np.float64)
    chosen = np.where(labels == 0, stacked.argmax(axis=0), stacked.argmin(axis=0))
    return stacked[chosen, np.arange(stacked.shape[1])], chosen


def pair_margin(
    patch_scores: npt.NDArray[Any], mask: npt.NDArray[np.bool_], clean: npt.NDArray[Any]
) -> FloatArray:
    """Mean margin of all pairs of an anomalous and a normal patch of an image, scores squashed.

    Parameters
    ----------
    patch_scores : array, (B, N)
        Scores of one pass.
    mask : array, (B, N), bool
        Anomalous patches.
    clean : array, (B, N)
        Scores of the clean pass, whose normal patches say where and how fast scores are squashed.

    Returns
    -------
    array, (B,)
        Of the squashed scores the mean of the anomalous patches minus that of the normal ones; the
        mean over all pairs is the difference of the means. Where an image has patches of one kind
        only, that part alone: minus the mean for a normal image.

    Notes
    -----
    Pixel AUROC compares pixels of different images, so that its worst case is no choice made
    image by image, and looking for it among all combinations is out of reach. The rule of this
    library: per image the pass with the smallest margin. It bounds the worst case from above.

    Scores are squashed to `z / (1 + |z|)`, z their distance to the 0.95 quantile of the image's
    clean normal patches in these patches' standard deviations: AUROC counts pairs in the wrong
    order, not by how much. On k-NN detectors that halves the AUROC that plain margins leave. The
    same as `robustad.attacks.objectives.misorder`, with the sign turned.

    Examples
    --------
    >>> mask, clean = np.array([[True, True, False, False]]), np.array([[5.0, 5.0, -1.0, 1.0]])
    >>> pair_margin(np.array([[1.0, 2.0, 1.0, 1.0]]), mask, clean)
    array([0.25])
    """
    tau, spread = _normal_level(np.asarray(clean, np.float64), mask)
    scores = (np.asarray(patch_scores, np.float64) - tau[:, None]) / spread[:, None]
    scores /= 1 + np.abs(scores)

    def mean(part: npt.NDArray[np.bool_]) -> FloatArray:
        count = part.sum(axis=1)
        total: FloatArray = np.where(part, scores, 0.0).sum(axis=1)
        return np.where(count > 0, total / np.maximum(count, 1), 0.0)

    return mean(mask) - mean(~mask)


def _normal_level(clean: FloatArray, mask: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """0.95 quantile and standard deviation of each image's normal patches, or of all if none is."""
    rows = [row[~truth] if not truth.all() else row for row, truth in zip(clean, mask, strict=True)]
    tau = [np.sort(row)[round(0.95 * (len(row) - 1))] for row in rows]
    spread = np.array([row.std() for row in rows])
    return np.array(tau), np.where(spread > 0, spread, 1.0)


def beaten(worst: npt.ArrayLike, labels: Labels) -> npt.NDArray[np.bool_]:
    """Images that no further attack can make count for less in the worst-case AUROC.

    Parameters
    ----------
    worst : array, (n,)
        Each image's worst score so far.
    labels : array, (n,), 0 or 1
        Both present.

    Returns
    -------
    array of bool, (n,)
        A normal image that scores above every anomalous one, an anomalous image that scores below
        every normal one.

    Notes
    -----
    *Leaving these images out of all further attacks does not change the worst-case AUROC.* It is
    the mean over all pairs (i normal, j anomalous) of h(w_j - w_i), with h(d) = 1 for d > 0, 1/2
    for 0 and 0 for d < 0, where w is the worst score over all attacks, those yet to come included.
    Let v be the worst scores so far. More attacks only raise scores of normal images, w_i >= v_i,
    and only lower those of anomalous ones, w_j <= v_j, as the worst case keeps what it has. If i
    is beaten, v_i > v_j for all j, so w_i >= v_i > v_j >= w_j: all its pairs count 0 in the end,
    and they count 0 as well if i keeps v_i, or if any other image is left out and keeps its v.
    The same holds with the signs turned for a beaten j. Pairs of two images that are not beaten
    see all attacks. So every pair counts the same with and without leaving out. An image beaten
    once stays so. The argument needs strict inequalities: ties count 1/2 and could still fall.

    Only AUROC is safe (and what depends on these pairs alone): rates at a fixed threshold are not.

    Examples
    --------
    >>> beaten([0.9, 0.2, 0.5, 0.1], np.array([0, 0, 1, 1])).tolist()
    [True, False, False, True]
    """
    scores = np.asarray(worst, np.float64)
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    lost: npt.NDArray[np.bool_] = np.where(
        labels == 0, scores > anomalous.max(), scores < normal.min()
    )
    return lost
