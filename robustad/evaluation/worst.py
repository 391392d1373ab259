"""The worst case image by image: exact for image scores, by a stated rule for pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from robustad.attacks import LogitScale, Scores
from robustad.attacks.objectives import misorder

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


def pair_margin(patch_scores: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> FloatArray:
    """Mean margin of all pairs of an anomalous and a normal patch of an image.

    Parameters
    ----------
    patch_scores : array, (B, N)
        Scores of one pass.
    mask : array, (B, N), bool
        Anomalous patches.

    Returns
    -------
    array, (B,)
        Mean score of the anomalous patches minus that of the normal ones; the mean over all pairs
        is the difference of the means. Where an image has patches of one kind only, that part
        alone: minus the mean for a normal image.

    Notes
    -----
    Pixel AUROC compares pixels of different images, so that its worst case is no choice made
    image by image, and looking for it among all combinations is out of reach. This library makes
    two choices, per image the pass with the smallest `pair_margin` and that with the smallest
    `order_margin`, and reports the one of lower AUROC. It bounds the worst case from above.

    Examples
    --------
    >>> pair_margin(np.array([[1.0, 3.0, 0.0, 2.0]]), np.array([[True, True, False, False]]))
    array([1.])
    """
    scores = np.asarray(patch_scores, np.float64)

    def mean(part: npt.NDArray[np.bool_]) -> FloatArray:
        count = part.sum(axis=1)
        total: FloatArray = np.where(part, scores, 0.0).sum(axis=1)
        return np.where(count > 0, total / np.maximum(count, 1), 0.0)

    return mean(mask) - mean(~mask)


def order_margin(
    patch_scores: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
    *,
    clean: npt.NDArray[Any],
    scale: LogitScale | None,
) -> FloatArray:
    """Mean margin of all pairs of an anomalous and a normal patch of an image, logits squashed.

    Parameters
    ----------
    patch_scores : array, (B, N)
        Scores of one pass.
    mask : array, (B, N), bool
        Anomalous patches.
    clean : array, (B, N)
        Scores of the clean pass.
    scale : LogitScale or None
        Makes logits of scores; None where they are logits.

    Returns
    -------
    array, (B,)
        Of the squashed logits the mean of the anomalous patches minus that of the normal ones; the
        mean over all pairs is the difference of the means. Where an image has patches of one kind
        only, that part alone: minus the mean for a normal image. The same as
        `robustad.attacks.objectives.misorder`, with the sign turned.

    Notes
    -----
    Where it is worse than `pair_margin`, and why both are asked: AUROC counts the pairs in the
    wrong order and not by how much, and plain margins let a few far patches pay for many that are
    still right. Squashed are the logits z, to `z / (1 + |z|)`; the level 0 is once the one from
    which the detector calls a patch anomalous, once that of the image's own clean normal patches,
    in their spread, and the mean of both counts.

    Examples
    --------
    >>> mask, clean = np.array([[True, True, False, False]]), np.array([[5.0, 5.0, -1.0, 1.0]])
    >>> scale = LogitScale(torch.tensor(1.0), torch.tensor(1.0))
    >>> order_margin(np.array([[1.0, 2.0, 1.0, 1.0]]), mask, clean=clean, scale=scale)
    array([0.25])
    """
    patch = torch.from_numpy(np.asarray(patch_scores, np.float64))
    asked = Scores(
        patch=patch,
        image=patch[:, 0],
        label=torch.zeros(len(patch), dtype=torch.int64),
        mask=torch.from_numpy(mask),
        clean=torch.from_numpy(np.asarray(clean, np.float64)),
        scale=None if scale is None else scale.to(patch, len(patch)),
    )
    margin: FloatArray = -misorder(asked).numpy()
    return margin


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
