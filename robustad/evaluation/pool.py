"""A few images of each class for attacks that start from an image of the other one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustad.data import Sample
from robustad.detectors import Detector

COUNT = 16  # of each class: each costs an image that is attacked up to one query


class ClassPool:
    """Clean images of each class, spread evenly over all samples and read when first needed.

    Parameters
    ----------
    detector : Detector
        Prepares the images.
    samples : sequence of Sample
        To choose from.
    labels : sequence of int, optional
        In place of the samples' own.

    Attributes
    ----------
    chosen : dict of int to list of int
        Places of those chosen, by label.
    """

    def __init__(
        self, detector: Detector, samples: Sequence[Sample], labels: Sequence[int] | None = None
    ) -> None:
        self.detector = detector
        self.samples = samples
        labels = [sample.label for sample in samples] if labels is None else labels
        self.chosen: dict[int, list[int]] = {}
        for label in (0, 1):
            places = [i for i, one in enumerate(labels) if one == label]
            spread = np.linspace(0, len(places) - 1, min(COUNT, len(places))).round()
            self.chosen[label] = [places[int(i)] for i in spread]
        self._read: dict[int, list[Tensor]] | None = None

    def at(self, height: int, width: int) -> dict[int, Tensor]:
        """Prepared images (M, 3, height, width) by label; those of other sizes are left out."""
        if self._read is None:
            self._read = {
                label: [self._image(place) for place in places]
                for label, places in self.chosen.items()
            }
        found = {}
        for label, images in self._read.items():
            some = [one for one in images if one.shape[1:] == (height, width)]
            if some:
                found[label] = torch.stack(some)
        return found

    def _image(self, place: int) -> Tensor:
        pixels = self.detector.geometry.apply(self.samples[place].read())
        return self.detector.stack([pixels])[0]
