"""How hard `Surfaces` is: scores of methods too simple to be useful, and a table.

`python -m robustad.data.surfaces.hardness` prints the table of docs/surfaces.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.data.dataset import Dataset
from robustad.data.surfaces import CATEGORIES, Surfaces

Scores = dict[str, npt.NDArray[np.float64]]
BLOCK = 8  # edge of the blocks over which differences are averaged before their maximum is taken


def difference_scores(
    train: Sequence[npt.NDArray[np.uint8]], test: Sequence[npt.NDArray[np.uint8]]
) -> Scores:
    """Anomaly scores from pixel differences.

    Parameters
    ----------
    train, test : sequence of array, (H, W, 3), uint8
        Images of one size, its edges multiples of 8.

    Returns
    -------
    dict of str to array, (len(test),), float64
        The mean absolute difference, and the largest one of a block of 8 x 8 pixels: to the mean
        training image, and to the training image with the smallest mean absolute difference.

    Examples
    --------
    >>> import numpy as np
    >>> black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    >>> {name: s.tolist() for name, s in difference_scores([black], [black, white]).items()}
    {'mean, average': [0.0, 255.0], 'mean, largest': [0.0, 255.0],
     'nearest, average': [0.0, 255.0], 'nearest, largest': [0.0, 255.0]}
    """
    bank = np.stack(train)
    centre = bank.mean(axis=0, dtype=np.float32)
    rows = []
    for image in test:
        to_mean = np.abs(image - centre)
        to_each = np.maximum(image, bank) - np.minimum(image, bank)  # stays in 8 bits: fast
        nearest = to_each[int(to_each.reshape(len(bank), -1).mean(axis=1).argmin())]
        rows.append(
            [to_mean.mean(), _blocks(to_mean).max(), nearest.mean(), _blocks(nearest).max()]
        )
    names = ("mean, average", "mean, largest", "nearest, average", "nearest, largest")
    return dict(zip(names, np.asarray(rows, np.float64).T, strict=True))


def statistic_scores(test: Sequence[npt.NDArray[np.uint8]]) -> Scores:
    """Statistics of single images: mean, std, largest gradient of the grey values.

    Examples
    --------
    >>> import numpy as np
    >>> statistic_scores([np.full((8, 8, 3), 7, np.uint8)])["mean"].tolist()
    [7.0]
    """
    grey = [image.mean(axis=-1) for image in test]
    return {
        "mean": np.array([image.mean() for image in grey]),
        "std": np.array([image.std() for image in grey]),
        "gradient": np.array([np.hypot(*np.gradient(image)).max() for image in grey]),
    }


def table(
    *,
    weights: str | None = None,
    categories: Sequence[str] = CATEGORIES,
    size: int = 256,
    counts: tuple[int, int, int] = (32, 24, 8),
    seed: int = 0,
) -> str:
    """Measure every category and lay the AUROC out as a Markdown table.

    Parameters
    ----------
    weights : str, optional
        A checkpoint of a ResNet-18 trunk, to measure its features too.
    categories : sequence of str
        What to measure, by default all.
    size, counts, seed : int, (int, int, int), int
        See `Surfaces`; the counts are `train`, `test_good` and `per_defect`.

    Returns
    -------
    str
        The table.
    """
    specification = Surfaces(
        size=size, train=counts[0], test_good=counts[1], per_defect=counts[2], seed=seed
    )
    columns = [_measure(specification.load(category), weights) for category in categories]
    lines = ["| | " + " | ".join(categories) + " |", "|---" * (len(categories) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(f"{column[name]:.3f}" for column in columns) + " |"
        for name in columns[0]
    ]
    return "\n".join(lines)


def _measure(data: Dataset, weights: str | None) -> dict[str, float]:
    from robustad.detectors import AnomalyDINO
    from robustad.metrics import auroc

    train = [np.asarray(sample.image) for sample in data.train]
    test = [np.asarray(sample.image) for sample in data.test]
    labels = np.array([sample.label for sample in data.test])
    masks = np.stack([np.asarray(sample.read_mask()) for sample in data.test])
    out = {
        f"pixel difference to the {name}": auroc(scores, labels)
        for name, scores in difference_scores(train, test).items()
    }
    out |= {name: auroc(scores, labels) for name, scores in statistic_scores(test).items()}
    runs: list[tuple[str, str | None, int]]
    runs = [("filters", None, len(train)), ("filters", None, 4)]
    runs += [("resnet18", weights, len(train))] if weights else []
    for backbone, checkpoint, shots in runs:
        detector = AnomalyDINO(backbone, checkpoint, image_size=train[0].shape[0])
        found = detector.fit(train[:shots]).predict(test)
        name = f"{backbone}, {shots} normal images"
        out[f"{name}: image"] = auroc(found.score, labels)
        out[f"{name}: pixel"] = auroc(np.stack(found.anomaly_map).ravel(), masks.ravel())
    return {name: float(value) for name, value in out.items()}


def _blocks(difference: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    rows, columns = difference.shape[0] // BLOCK, difference.shape[1] // BLOCK
    out: npt.NDArray[np.float32] = difference.reshape(rows, BLOCK, columns, BLOCK, 3).mean(
        (1, 3, 4)
    )
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure how hard the Surfaces data set is.")
    parser.add_argument("--weights", help="checkpoint of a ResNet-18 trunk to measure as well")
    parser.add_argument("--categories", nargs="+", choices=CATEGORIES, default=CATEGORIES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(table(weights=arguments.weights, categories=arguments.categories, seed=arguments.seed))
