"""A memory bank's scores with some of its images left out, without fitting it again and again."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustad.detectors.anomaly_dino import AnomalyDINO
from robustad.detectors.bank import build_bank
from robustad.errors import InputError
from robustad.ops import cosine_nn, pack_bank

FloatArray = npt.NDArray[np.float64]
SAME = 1e-4  # cosine distance of vectors that differ by rounding
CHUNK = 64  # images whose features are kept at once


class LeftOutBank:
    """Scores by the banks of all images but those of one fold, for every fold.

    Parameters
    ----------
    detector : AnomalyDINO
        Its options; what it was fitted on is not looked at.
    images : sequence of array, (H, W, 3), float32 in [0, 1]
        The images of the bank, n of them.
    fold : array, (n,), int
        Fold 0..K-1 of each image.

    Attributes
    ----------
    monotone : bool
        Whether one more image can only lower scores: a distance to the nearest of more vectors,
        and so their largest, cannot rise. Whitening, pruning and a coreset look at all images, and
        break that.

    Raises
    ------
    InputError
        If a bank without a fold has fewer than `k` vectors.

    Notes
    -----
    The scores are exactly those of detectors that were fitted anew. A plain bank is searched once,
    image by image: the k nearest of each image's vectors hold the k nearest of every union of
    images. Where vectors are whitened or selected, each fold's bank is built again from features
    that the backbone computed once.
    """

    def __init__(
        self,
        detector: AnomalyDINO,
        images: Sequence[npt.NDArray[np.float32]],
        fold: npt.NDArray[np.int64],
    ) -> None:
        self._detector, self._fold = detector, fold
        self._features = [detector.reference_features(pixels) for pixels in images]
        options = detector.config()
        self.monotone = not options.whiten and options.coreset is None and not options.prune
        self._units: list[Tensor] = []
        if self.monotone:
            self._units = [pack_bank(one).unit for one in self._features]
        sizes = np.array([one.shape[0] for one in self._features])
        for place in range(int(fold.max()) + 1):
            left = int(sizes[fold != place].sum())
            if left < options.k:
                raise InputError(
                    f"k: expected at most the {left} vectors of a bank with a fold left out, got "
                    f"{options.k}"
                )

    @torch.inference_mode(False)
    @torch.no_grad()
    def scores(
        self, images: Sequence[npt.NDArray[np.float32]], wanted: npt.NDArray[np.bool_]
    ) -> FloatArray:
        """Image scores with folds left out.

        Parameters
        ----------
        images : sequence of array, (H, W, 3), float32 in [0, 1]
            B images as they are.
        wanted : array, (B, K), bool
            Which fold to leave out for which image.

        Returns
        -------
        array, (B, K), float64
            NaN where not wanted.
        """
        found = np.full(wanted.shape, np.nan)
        for start in range(0, len(images), CHUNK):
            rows = range(start, min(start + CHUNK, len(images)))
            seen = [self._seen(images[row]) for row in rows]
            if self.monotone:
                for row, (tokens, x) in zip(rows, seen, strict=True):
                    folds = np.flatnonzero(wanted[row])
                    image_scores = self._detector.aggregate(self._plain(tokens, x, folds))
                    found[row, folds] = image_scores.double().cpu().numpy()
                continue
            for fold in np.flatnonzero(wanted[list(rows)].any(axis=0)):
                twin = self._without(int(fold))
                for row, (tokens, x) in zip(rows, seen, strict=True):
                    if wanted[row, fold]:
                        found[row, fold] = float(twin.aggregate(twin.token_scores(tokens, x)))
        return found

    @torch.inference_mode(False)
    @torch.no_grad()
    def made(self, detector: AnomalyDINO) -> bool:
        """Whether a detector's bank consists of these images, in any order.

        Raises
        ------
        InputError
            If the detector has no bank.
        """
        bank, options = detector.bank, detector.config()
        if bank.shape[0] == 0:
            raise InputError("detector: has not been fitted yet: call fit(images) first")
        # Of a coreset, before it was chosen: which vectors it takes depends on their order.
        whole, _ = build_bank(self._features, whiten=options.whiten)
        if options.coreset is None and whole.shape != bank.shape:
            return False
        if whole.shape[0] < bank.shape[0] or whole.shape[1] != bank.shape[1]:
            return False
        pairs = [(bank, whole)] if options.coreset is not None else [(bank, whole), (whole, bank)]
        return all(
            float(cosine_nn(one, pack_bank(other), 1)[0].max()) <= SAME for one, other in pairs
        )

    def _seen(self, pixels: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Backbone features and prepared pixels of one image."""
        x = self._detector.stack([self._detector.geometry.apply(pixels)])
        return self._detector.backbone(x), x

    def _plain(self, tokens: Tensor, x: Tensor, folds: npt.NDArray[np.int64]) -> Tensor:
        """Patch scores (len(folds), N) of one image, from a single search of each image's part."""
        detector = self._detector
        queries = tokens.flatten(0, 1)
        rows: list[Tensor] = []
        # of each fold the k nearest vectors (N, k), padded where it has fewer
        nearest = [self._nearest(queries, place) for place in range(int(self._fold.max()) + 1)]
        merged = torch.cat(nearest, dim=1)
        owner = torch.arange(len(nearest), device=x.device).repeat_interleave(detector.k)
        # k vectors of a fold at most are left out, so 2 k of the smallest hold k others
        distance, place = merged.sort(dim=1, stable=True)
        distance, owners = (one[:, : 2 * detector.k] for one in (distance, owner[place]))
        for fold in folds:
            kept = distance.masked_fill(owners == int(fold), torch.inf).sort(dim=1).values
            rows.append(kept[:, : detector.k])
        scores = detector.reduced(torch.stack(rows))
        return scores * detector.foreground(tokens, x) if detector.mask else scores

    def _nearest(self, queries: Tensor, fold: int) -> Tensor:
        """The k smallest distances (N, k) to the vectors of one fold; infinite where it has few."""
        k = self._detector.k
        found = [
            cosine_nn(queries, pack_bank(unit), min(k, unit.shape[0]))[0]
            for unit, place in zip(self._units, self._fold, strict=True)
            if place == fold
        ]
        distance = torch.cat(found, dim=1).sort(dim=1).values[:, :k]
        return torch.nn.functional.pad(distance, (0, k - distance.shape[1]), value=torch.inf)

    def _without(self, fold: int) -> AnomalyDINO:
        """A detector fitted on the images outside a fold; it shares the backbone."""
        shared = {id(self._detector.backbone): self._detector.backbone}
        twin = copy.deepcopy(self._detector, memo=shared)
        pairs = zip(self._features, self._fold, strict=True)
        twin.remember([one for one, place in pairs if place != fold])
        return twin
