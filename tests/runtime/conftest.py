import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest

from robustad import runtime
from robustad.calibration import Platt
from robustad.conformal import ConformalScores, RiskThreshold
from robustad.detectors import AnomalyDINO
from robustad.export import export_onnx
from robustad.verdict import Policy

STATES = {
    "platt": {"slope": 5.0, "intercept": -2.0},
    "temperature": {"temperature": 0.2, "shift": -1.0},
    "beta": {"a": 2.0, "b": 1.0, "c": 1.0, "low": -1.0, "high": 3.0},
    "isotonic": {"knots": [0.0, 0.2, 0.5, 2.0], "values": [0.0, 0.1, 0.7, 1.0], "shift": 0.0},
    "raw": {},
}
SIZES = [(60, 80), (60, 80), (48, 48), (100, 70), (60, 80), (31, 50)]


class Exported(NamedTuple):
    detector: AnomalyDINO
    path: Path


@pytest.fixture(scope="session")
def exported(tmp_path_factory, means, make_images):
    """A calibrated detector that takes images of any aspect ratio."""
    detector = AnomalyDINO(means(), image_size=48).fit(make_images(5, 60, 80, seed=0)[::2])
    scores = detector.predict(make_images(12, 60, 80, seed=1)).score
    detector.calibrator = Platt().fit(scores, np.arange(12) % 2)
    detector.conformal = ConformalScores(
        detector.predict(make_images(20, 60, 80, seed=2)[::2]).score, anomalous=scores[1::2]
    )
    detector.policy = Policy(threshold=0.3, entropy_threshold=0.65, p_value_threshold=0.1)
    detector.pixel_threshold = RiskThreshold(
        value=0.25, loss="pixel_miss", alpha=0.2, n=9, risk=0.1
    )
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return Exported(detector, export_onnx(detector, path, input="float_nchw"))


@pytest.fixture(scope="session")
def mixed(make_images):
    """Images of several sizes, large and small, in no order."""
    return [make_images(2, *size, seed=10 + i)[i % 2] for i, size in enumerate(SIZES)]


@pytest.fixture(scope="session")
def model(exported):
    return runtime.load(exported.path, threads=1)


@pytest.fixture
def with_metadata(exported, tmp_path):
    """Copy the file with its metadata changed; None takes them away."""

    def change(edit):
        model = onnx.load(exported.path)
        [entry] = model.metadata_props
        if edit is None:
            del model.metadata_props[:]
        else:
            document = json.loads(entry.value)
            changed = edit(document)
            entry.value = changed if isinstance(changed, str) else json.dumps(document)
        path = tmp_path / "changed.onnx"
        onnx.save(model, path)
        return path

    return change


@pytest.fixture(params=STATES)
def calibration_state(request):
    """What a calibrator of each kind writes into a file."""
    return {"method": request.param, **STATES[request.param]}
