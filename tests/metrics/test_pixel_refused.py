"""What `PixelMetrics` refuses, and in which words."""

import numpy as np
import pytest

from robustad.errors import InputError
from robustad.metrics import PixelMetrics

FINE = np.zeros((2, 3), np.float32), np.zeros((2, 3), bool)


@pytest.mark.parametrize(
    ("anomaly_map", "mask", "message"),
    [
        (FINE[0], FINE[1].T, r"mask of image 1: expected bool \(2, 3\) .* got bool \(3, 2\)"),
        (FINE[0], FINE[1].astype(int), r"mask of image 1: expected bool .* got int64 \(2, 3\)"),
        (FINE[0][None], FINE[1], r"anomaly_map of image 1: .* got float32 \(1, 2, 3\)"),
        (np.zeros((2, 3), int), FINE[1], r"anomaly_map of image 1: .* got int64 \(2, 3\)"),
        (np.zeros((0, 3)), np.zeros((0, 3), bool), r"got float64 \(0, 3\)"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), FINE[1], "got nan at row 1, column 1"),
        (np.array([[0, 0, np.inf], [0, 0, 0]]), FINE[1], "got inf at row 0, column 2"),
        (
            np.array([[0, 0, 0], [-1e39, 0, 0]]),
            FINE[1],
            "float32 .* got -1e[+]39 at row 1, column 0",
        ),
    ],
)
def test_bad_images_are_named_and_not_counted(anomaly_map, mask, message):
    metrics = PixelMetrics()
    metrics.update(np.array([[0.1, 0.9]]), np.array([[False, True]]))
    before = metrics.compute()
    with pytest.raises(InputError, match=message):
        metrics.update(anomaly_map, mask)
    assert metrics.compute() == before


def test_missing_classes_are_named():
    metrics = PixelMetrics()
    with pytest.raises(InputError, match="found no anomalous pixel in 0 images"):
        metrics.compute()
    metrics.update(*FINE)
    with pytest.raises(InputError, match="found no anomalous pixel in 1 images"):
        metrics.compute()
    metrics = PixelMetrics()
    metrics.update(FINE[0], ~FINE[1])
    with pytest.raises(InputError, match="found no normal pixel in 1 images"):
        metrics.compute()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 1}, "bins: expected 2 to 536870912, got 1"),
        ({"bins": 2**31}, "bins: expected 2 to 536870912, got 2147483648"),
        ({"bins": 1e6}, "bins: expected a whole number >= 1, got 1000000.0"),
        ({"fpr_limit": 0}, r"fpr_limit: expected a number in \(0, 1\], got 0"),
        ({"fpr_limit": 30}, "fpr_limit: .* got 30"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        PixelMetrics(**options)
