import dataclasses
import json
import math

import numpy as np
import pytest

from robustad.prediction import Prediction
from robustad.verdict import Policy, binary_entropy


def prediction(score, probability):
    probability = np.asarray(probability, np.float64)
    count = len(probability)
    return Prediction(
        names=[f"image {i}" for i in range(count)],
        score=np.asarray(score, np.float32),
        probability=probability,
        entropy=binary_entropy(probability),
        verdict=Policy(entropy_threshold=0.5).decide(probability),
        patch_scores=[np.zeros((2, 3), np.float32)] * count,
        anomaly_map=[np.zeros((20, 30), np.float32)] * count,
    )


def test_records():
    made = prediction([0.25, 7.5, -2.0], [0.0, 0.5, 1.0])
    assert len(made) == 3
    keys = ("name", "score", "probability", "entropy", "verdict")
    assert [tuple(record) for record in made.to_records()] == [keys] * 3
    assert [tuple(record.values()) for record in made.to_records()] == [
        ("image 0", 0.25, 0.0, 0.0, "accept"),
        ("image 1", 7.5, 0.5, math.log(2), "defer"),
        ("image 2", -2.0, 1.0, 0.0, "reject"),
    ]


def test_records_are_ready_for_strict_json():
    made = prediction([0.1, math.nan, math.inf], [0.3, math.nan, 0.9])
    text = json.dumps(made.to_records(), allow_nan=False)
    first, second, third = json.loads(text)
    assert first["score"] == float(np.float32(0.1))
    assert first["probability"] == 0.3
    assert second == {
        "name": "image 1",
        "score": None,
        "probability": None,
        "entropy": None,
        "verdict": "uncalibrated",
    }
    assert third["score"] is None
    assert third["verdict"] == "reject"
    for record in made.to_records():
        assert {type(value) for value in record.values()} <= {str, float, type(None)}


def test_an_empty_prediction():
    made = prediction([], [])
    assert len(made) == 0
    assert made.to_records() == []


def test_a_prediction_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        prediction([1.0], [0.5]).score = np.zeros(1, np.float32)
