import dataclasses
import json
import math

import numpy as np
import pytest

from robustad.errors import InputError
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
    keys = ("name", "score", "probability", "entropy", "p_value", "verdict")
    assert [tuple(record) for record in made.to_records()] == [keys] * 3
    assert [tuple(record.values()) for record in made.to_records()] == [
        ("image 0", 0.25, 0.0, 0.0, None, "accept"),
        ("image 1", 7.5, 0.5, math.log(2), None, "defer"),
        ("image 2", -2.0, 1.0, 0.0, None, "reject"),
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
        "p_value": None,
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


def test_p_values_are_optional():
    made = prediction([0.1, 0.2], [0.1, 0.2])
    assert np.isnan(made.p_value).all()
    given = dataclasses.replace(made, p_value=np.array([0.25, 0.5]))
    assert [record["p_value"] for record in given.to_records()] == [0.25, 0.5]
    with pytest.raises(InputError, match=r"^p_value: expected shape \(2,\), got \(3,\)$"):
        dataclasses.replace(made, p_value=np.zeros(3))


def test_masks_are_where_the_map_reaches_the_threshold():
    made = prediction([0.1], [0.1])
    with pytest.raises(InputError, match=r"^pixel_threshold: expected a number, got None"):
        made.masks()
    ramp = np.arange(6, dtype=np.float32).reshape(2, 3)
    made = dataclasses.replace(made, anomaly_map=[ramp], pixel_threshold=4.0)
    [mask] = made.masks()
    assert mask.tolist() == [[False, False, False], [False, True, True]]
    assert dataclasses.replace(made, pixel_threshold=math.inf).masks()[0].sum() == 0
