"""Fitting a calibrator to scores and applying it to all of them, against scikit-learn.

Platt's and the temperature's targets are smoothed here and, of the temperature, not there; with so
many scores that is below the tolerance.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from robustad.calibration import FITTED, ScoreCalibrator

FloatArray = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def data(method: str, count: int) -> tuple[FloatArray, Labels]:
    """Two overlapping normal distributions, in (0, 1) for beta calibration."""
    rng = np.random.default_rng(0)
    labels = (rng.random(count) < 0.4).astype(np.int64)
    scores = rng.normal(2.0 * labels - 1.0, 1.0)
    return (1.0 / (1.0 + np.exp(-scores)) if method == "beta" else scores), labels


def by_robustad(method: str, scores: FloatArray, labels: Labels) -> FloatArray:
    calibrator: ScoreCalibrator[Any] = FITTED[method]()
    return calibrator.fit(scores, labels).predict_proba(scores)


def by_scikit_learn(method: str, scores: FloatArray, labels: Labels) -> FloatArray:
    from sklearn.calibration import _SigmoidCalibration, _TemperatureScaling
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    if method == "platt":
        return np.asarray(_SigmoidCalibration().fit(scores, labels).predict(scores))
    if method == "temperature":
        both = np.stack([-scores / 2, scores / 2], axis=1)
        return np.asarray(_TemperatureScaling().fit(both, labels).predict(both)[:, 1])
    if method == "isotonic":
        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        return np.asarray(model.fit(scores, labels).predict(scores))
    features = np.stack([np.log(scores), -np.log1p(-scores)], axis=1)
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky").fit(features, labels)
    return np.asarray(regression.predict_proba(features)[:, 1])


IMPLEMENTATIONS: dict[str, Callable[[str, FloatArray, Labels], FloatArray]] = {
    "robustad": by_robustad,
    "scikit-learn": by_scikit_learn,
}
COUNTS = [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("method", FITTED)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_calibration(benchmark: Any, impl: str, method: str, count: int) -> None:
    scores, labels = data(method, count)
    benchmark.group = f"calibration, {method}, {count} scores"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = benchmark.pedantic(IMPLEMENTATIONS[impl], (method, scores, labels), rounds=3)
    other = by_scikit_learn if impl == "robustad" else by_robustad
    expected = other(method, scores, labels)
    # Its optimisers stop at a gradient of 1e-6 or 1e-4; isotonic regression has none.
    atol = 1e-12 if method == "isotonic" else 2e-3 if method == "temperature" else 5e-4
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    benchmark.extra_info.update(
        items=count,
        bytes=2 * scores.nbytes + labels.nbytes,
        device="cpu",
        dtype="float64",
        largest_difference=float(np.abs(found - expected).max()),
    )
