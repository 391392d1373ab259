"""Pixel-wise AUROC, AP and AUPRO over a data set, against sorting all scores.

Only `robustad` and `numpy sort` compute AUPRO as well; scikit-learn and torchmetrics are timed on
AUROC and AP alone.
"""

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from robustad.metrics import PixelMetrics

SIDE = 448
LIMIT = 0.3


def data_set(count: int) -> tuple[list[Any], list[Any]]:
    """Smooth heavy-tailed maps, three images in four with a lifted rectangle."""
    rng = np.random.default_rng(0)
    maps, masks = [], []
    for index in range(count):
        mask = np.zeros((SIDE, SIDE), bool)
        if index % 4:
            y, x, h, w = *rng.integers(20, SIDE - 70, 2), *rng.integers(5, 60, 2)
            mask[y : y + h, x : x + w] = True
        noise = 8.0 * gaussian_filter(rng.normal(size=mask.shape), 4)
        lift = gaussian_filter(mask.astype(float), 4) * rng.uniform(0.5, 3.0)
        maps.append((0.2 * np.exp(noise + lift)).astype(np.float32))
        masks.append(mask)
    return maps, masks


def by_robustad(maps: list[Any], masks: list[Any]) -> dict[str, float]:
    metrics = PixelMetrics(fpr_limit=LIMIT)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask)
    result = metrics.compute()
    return {"auroc": result.auroc, "ap": result.ap, "aupro": result.aupro}


def by_numpy_sort(maps: list[Any], masks: list[Any]) -> dict[str, float]:
    scores = np.concatenate([m.ravel() for m in maps])
    weights = np.zeros(scores.size)
    start = regions = 0
    for mask in masks:
        found, count = label(mask, np.ones((3, 3)))
        size = np.bincount(found.ravel())
        inverse = np.append(0.0, 1.0 / size[1:])
        weights[start : start + mask.size] = inverse[found].ravel()
        start, regions = start + mask.size, regions + count
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)
    hit = (weights > 0)[order]
    hits = np.append(0, np.cumsum(hit)[last]).astype(float)
    alarms = np.append(0, last + 1) - hits
    overlap = np.append(0, np.cumsum(weights[order])[last]) / regions
    fpr, tpr = alarms / alarms[-1], hits / hits[-1]
    inside = np.searchsorted(fpr, LIMIT, side="right")
    x = np.append(fpr[:inside], LIMIT)
    y = np.append(overlap[:inside], np.interp(LIMIT, fpr, overlap))
    return {
        "auroc": float(np.trapezoid(tpr, fpr)),
        "ap": float((np.diff(tpr) * hits[1:] / (hits[1:] + alarms[1:])).sum()),
        "aupro": float(np.trapezoid(y, x) / LIMIT),
    }


def by_scikit_learn(maps: list[Any], masks: list[Any]) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores = np.concatenate([m.ravel() for m in maps])
    truth = np.concatenate([m.ravel() for m in masks])
    return {
        "auroc": float(roc_auc_score(truth, scores)),
        "ap": float(average_precision_score(truth, scores)),
    }


def by_torchmetrics(maps: list[Any], masks: list[Any]) -> dict[str, float]:
    import torch
    from torchmetrics import MetricCollection
    from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

    # validate_args=False and in-range scores, so that no sigmoid is applied.
    metrics = MetricCollection(
        {
            "auroc": BinaryAUROC(validate_args=False),
            "ap": BinaryAveragePrecision(validate_args=False),
        }
    )
    top = max(float(m.max()) for m in maps)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(torch.from_numpy(anomaly_map / top), torch.from_numpy(mask).long())
    return {name: float(value) for name, value in metrics.compute().items()}


IMPLEMENTATIONS = {
    "robustad": by_robustad,
    "numpy sort": by_numpy_sort,
    "scikit-learn": by_scikit_learn,
    "torchmetrics": by_torchmetrics,
}
COUNTS = [8, pytest.param(83, marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=COUNTS, ids=lambda count: f"{count}x{SIDE}x{SIDE}")
def maps_and_masks(request: pytest.FixtureRequest) -> tuple[list[Any], list[Any]]:
    return data_set(request.param)


@pytest.fixture(scope="module")
def reference(maps_and_masks: tuple[list[Any], list[Any]]) -> dict[str, float]:
    """AUROC and AP by scikit-learn, AUPRO by sorting: exact."""
    return by_numpy_sort(*maps_and_masks) | by_scikit_learn(*maps_and_masks)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_pixel_metrics(
    benchmark: Any,
    impl: str,
    maps_and_masks: tuple[list[Any], list[Any]],
    reference: dict[str, float],
) -> None:
    maps, masks = maps_and_masks
    benchmark.group = f"pixel metrics, {len(maps)} maps of {SIDE} x {SIDE}"
    result = benchmark.pedantic(IMPLEMENTATIONS[impl], (maps, masks), rounds=3)
    for name, value in result.items():
        assert value == pytest.approx(reference[name], abs=1e-4)
    pixels = len(maps) * SIDE * SIDE
    benchmark.extra_info.update(
        items=pixels,
        bytes=5 * pixels,
        device="cpu",
        dtype="float32",
        measures=sorted(result),
        largest_error=max(abs(value - reference[name]) for name, value in result.items()),
    )
