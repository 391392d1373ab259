"""A few images worth looking at, with their maps before and after the attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from robustad.attacks import attack
from robustad.data import Sample
from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.evaluation.batches import batches
from robustad.evaluation.result import Evaluation

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image, clean and attacked.

    Attributes
    ----------
    name, defect : str
        Which image, and its defect class.
    label : int
        0 normal, 1 anomalous.
    image, attacked : array, (H, W, 3), float32 in [0, 1]
        The prepared image and its adversarial twin.
    mask : array, (H, W), bool, or None
        Ground truth.
    clean_map, attacked_map : array, (H, W), float32
        Anomaly maps.
    clean_score, attacked_score : float
        Image scores.
    attack : str
        Name of the attack.
    """

    name: str
    defect: str
    label: int
    image: FloatArray
    attacked: FloatArray
    mask: npt.NDArray[np.bool_] | None
    clean_map: FloatArray
    attacked_map: FloatArray
    clean_score: float
    attacked_score: float
    attack: str


def collect_examples(
    detector: Detector,
    samples: Sequence[Sample],
    evaluation: Evaluation,
    *,
    count: int = 4,
    attack_name: str = "pgd10",
) -> list[Example]:
    """Attack the most and the least anomalous images once more and keep everything.

    Parameters
    ----------
    detector : Detector
        The one evaluated.
    samples : sequence of Sample
        The images evaluated on.
    evaluation : Evaluation
        Its clean scores decide which images are shown.
    count : int, default 4
        Images of each end: `count` with the highest clean scores, `count` with the lowest.
    attack_name : str, default "pgd10"
        One that needs no probe.

    Returns
    -------
    list of Example
        By falling clean score.

    Raises
    ------
    InputError
        If `count` is below 1, or the attack lacks what it needs.
    """
    if count < 1:
        raise InputError(f"count: expected >= 1, got {count}")
    order = np.argsort(-evaluation.scores(), kind="stable")
    chosen = list(dict.fromkeys([*order[:count].tolist(), *order[-count:].tolist()]))
    by_name = {sample.name: sample for sample in samples}
    picked = [by_name[evaluation.names[index]] for index in chosen]
    examples = []
    for batch in batches(detector, picked, batch_size=max(1, count)):
        result = attack(
            detector,
            batch.x,
            label=batch.label,
            mask=batch.mask,
            attack=attack_name,
            eps=evaluation.eps,
        )
        size = (batch.x.shape[2], batch.x.shape[3])
        with torch.no_grad():
            clean_maps = detector.anomaly_map(result.clean_patch_scores, size).cpu().numpy()
            attacked_maps = detector.anomaly_map(result.patch_scores, size).cpu().numpy()
        for row, index in enumerate(batch.index):
            examples.append(
                Example(
                    name=picked[index].name,
                    defect=picked[index].defect,
                    label=picked[index].label,
                    image=batch.x[row].permute(1, 2, 0).cpu().numpy(),
                    attacked=result.x_adv[row].permute(1, 2, 0).cpu().numpy(),
                    mask=batch.pixels[row],
                    clean_map=clean_maps[row],
                    attacked_map=attacked_maps[row],
                    clean_score=float(result.clean_score[row]),
                    attacked_score=float(result.score[row]),
                    attack=attack_name,
                )
            )
    return examples
