import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustad.serve.batcher import Scores
from robustad.serve.limits import Limits, Refusal
from robustad.serve.protocol import OUTPUTS, encode, parse
from robustad.verdict import Verdict

LIMITS = Limits(images=4, pixels=10_000)


def request(name="image", datatype="FP32", shape=(1, 3, 8, 8), **more):
    return {"inputs": [{"name": name, "datatype": datatype, "shape": list(shape), **more}]}


def refused(document, match, *, status=400, blob=b"", length=None):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    if blob and length is None:
        length = str(len(body))
    with pytest.raises(Refusal, match=match) as caught:
        parse(body + blob, length, LIMITS)
    assert caught.value.status == status


def test_tensors_in_json():
    x = np.random.default_rng(0).random((2, 3, 8, 4), np.float32)
    for data in (x.tolist(), x.ravel().tolist()):
        found = parse(
            json.dumps({"id": "7", **request(shape=x.shape, data=data)}).encode(), None, LIMITS
        )
        np.testing.assert_array_equal(found.tensor, x)
        assert found.tensor.dtype == np.float32
        assert (found.id, found.name) == ("7", "image")
        assert found.outputs == dict.fromkeys(OUTPUTS, False)
    pixels = np.arange(96, dtype=np.uint8).reshape(1, 4, 8, 3)
    document = request("pixels", "UINT8", pixels.shape, data=pixels.ravel().tolist())
    found = parse(json.dumps(document).encode(), None, LIMITS)
    np.testing.assert_array_equal(found.tensor, pixels)
    assert found.tensor.dtype == np.uint8


def test_tensors_in_binary():
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    document = request(parameters={"binary_data_size": x.nbytes})
    document["outputs"] = [
        {"name": "score"},
        {"name": "anomaly_map", "parameters": {"binary_data": True}},
    ]
    text = json.dumps(document).encode()
    found = parse(text + x.tobytes(), str(len(text)), LIMITS)
    np.testing.assert_array_equal(found.tensor, x)
    assert found.outputs == {"score": False, "anomaly_map": True}
    document = {**document, "outputs": None, "parameters": {"binary_data_output": True}}
    del document["outputs"]
    text = json.dumps(document).encode()
    assert all(parse(text + x.tobytes(), str(len(text)), LIMITS).outputs.values())


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4))
def test_files(files):
    blob = b"".join(struct.pack("<I", len(content)) + content for content in files)
    document = request("file", "BYTES", [len(files)], parameters={"binary_data_size": len(blob)})
    text = json.dumps(document).encode()
    assert parse(text + blob, str(len(text)), LIMITS).tensor == files
    encoded = [base64.b64encode(content).decode() for content in files]
    text = json.dumps(request("file", "BYTES", [len(files)], data=encoded)).encode()
    assert parse(text, None, LIMITS).tensor == files


@given(st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=6)))
def test_no_bytes_crash_it(body, length):
    with pytest.raises(Refusal):
        parse(body, length, LIMITS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(json_values, st.sampled_from(["data", "shape", "parameters", "datatype", "name"]))
def test_no_field_crashes_it(value, field):
    document = request(data=[0.0] * 192)
    document["inputs"][0][field] = value
    try:
        found, refusal = parse(json.dumps(document).encode(), None, LIMITS), None
    except Refusal as error:
        found, refusal = None, error
    if found is not None:
        assert found.tensor.shape == (1, 3, 8, 8)
    else:
        assert refusal.status in (400, 413)
        assert len(str(refusal)) < 500


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "expected a JSON document"),
        (b"\xff\xfe", "expected a JSON document"),
        (b"[" * 100_000, "expected a JSON document"),
        (b"[1]", "the request: expected a JSON object"),
        ({"id": 7, **request()}, "id: expected a string, got 7"),
        ({}, "inputs: expected a list of one tensor, image, pixels, file, got None"),
        ({"inputs": [1]}, "inputs: expected a list of one tensor"),
        (request("x"), "input: expected one of image, pixels, file, got x"),
        (request(datatype="FP16"), "datatype of image: expected FP32, got FP16"),
        (request(shape=[1, 4, 8, 8]), r"shape of image: expected \[-1, 3, -1, -1\] with positive"),
        (request(shape=[1, 3, 8]), "shape of image: expected"),
        (request(shape=[1, 3, 8, 0]), "shape of image: expected"),
        (request(shape=[1, 3, 8, 8.0]), "shape of image: expected"),
        (request(), "data of image: expected a list, got None"),
        (request(data=[1, 2]), r"data of image: expected 192 numbers for shape \[1, 3, 8, 8\], g"),
        (request(data=[[1], [1, 2]]), "expected numbers, flat or nested evenly"),
        (request(data=["a"] * 192), "data of image: expected numbers, got"),
        (request(data=[True] * 192), "data of image: expected numbers, got bool"),
        (request(data=[None] * 192), "data of image: expected numbers, got object"),
        (b'{"inputs": [{"data": [NaN]}]}', "NaN is no JSON number"),
        (request("pixels", "UINT8", [1, 1, 1, 3], data=[0, 256, 1]), r"integers in 0\.\.255, got"),
        (request("pixels", "UINT8", [1, 1, 1, 3], data=[0, 0.5, 1]), "expected integers, got fl"),
        (request("file", "BYTES", [1], data=["%%"]), "expected base64 strings"),
        (request("file", "BYTES", [1], data=[5]), "expected base64 strings"),
        (request("file", "BYTES", [2], data=["AA=="]), "expected 2 strings, got 1 strings"),
        ({**request(data=[0] * 192), "outputs": []}, "outputs: expected a list of outputs"),
        ({**request(data=[0] * 192), "outputs": [{"name": "x"}]}, "output: expected one of score"),
        ({**request(data=[0] * 192), "outputs": [3]}, "output: expected one of score"),
        ({**request(data=[0] * 192), "parameters": 3}, "parameters of the request: expected an o"),
        (request(data=[0] * 192, parameters=[]), "parameters of image: expected an object"),
    ],
)  # fmt: skip
def test_what_is_refused(document, message):
    refused(document, message)


def test_what_is_too_much():
    refused(request(shape=[5, 3, 8, 8]), "at most 4 images in a request, got 5", status=413)
    refused(request(shape=[1, 3, 101, 100]), "at most 10000 pixels, got 10100", status=413)
    refused(request("pixels", "UINT8", [1, 101, 100, 3]), "got 10100", status=413)
    refused(request("file", "BYTES", [5]), "at most 4 images", status=413)


def test_binary_parts_that_do_not_fit():
    x = b"\0" * 768
    refused(request(parameters={"binary_data_size": 5}), "expected binary_data_size 768", blob=x)
    refused(request(parameters={"binary_data_size": "768"}), "expected binary_data_size", blob=x)
    both = request(data=[0], parameters={"binary_data_size": 768})
    refused(both, "and no data in it", blob=x)
    refused(request(data=[0] * 192), "768 bytes follow the JSON part", blob=x)
    short = request(parameters={"binary_data_size": 4})
    refused(short, r"expected 768 bytes for shape \[1, 3, 8, 8\], got 4", blob=b"\0" * 4)
    for length in ("-1", "x", "1.5", "³"):
        refused(request(), "Inference-Header-Content-Length: expected a number", length=length)
    refused(request(), "1000 bytes announced", length="1000")
    file = request("file", "BYTES", [1], parameters={"binary_data_size": 6})
    refused(file, "expected 1 elements, each after its length", blob=b"\x09\0\0\0ab")


def scores(sizes=((4, 5), (4, 5)), probability=(0.2, np.nan)):
    count = len(sizes)
    return Scores(
        score=np.arange(count, dtype=np.float32),
        probability=np.array(probability[:count]),
        entropy=np.array(probability[:count]),
        verdict=[Verdict.ACCEPT, Verdict.UNCALIBRATED][:count],
        patch_scores=[np.ones(2, np.float32)] * count,
        anomaly_map=[np.full(size, 0.5, np.float32) for size in sizes],
    )


def asked(outputs):
    text = json.dumps({"id": "a", **request(data=[0] * 192), "outputs": outputs}).encode()
    return parse(text, None, LIMITS)


def test_answers_in_json():
    content, headers = encode(asked([{"name": name} for name in OUTPUTS]), scores(), "m", "1")
    assert headers == {"Content-Type": "application/json"}
    document = json.loads(content, parse_constant=lambda name: pytest.fail(name))
    assert (document["model_name"], document["model_version"], document["id"]) == ("m", "1", "a")
    found = {entry["name"]: entry for entry in document["outputs"]}
    assert list(found) == list(OUTPUTS)
    assert found["probability"]["data"] == [pytest.approx(0.2), None]
    assert found["verdict"] == {
        "name": "verdict", "datatype": "BYTES", "shape": [2], "data": ["accept", "uncalibrated"],
    }  # fmt: skip
    assert found["anomaly_map"]["shape"] == [2, 4, 5]
    assert found["anomaly_map"]["data"] == [0.5] * 40


def test_answers_in_binary():
    outputs = [{"name": name, "parameters": {"binary_data": name != "score"}} for name in OUTPUTS]
    content, headers = encode(asked(outputs), scores(), "m", "1")
    length = int(headers["Inference-Header-Content-Length"])
    document, rest = json.loads(content[:length]), content[length:]
    assert headers["Content-Type"] == "application/octet-stream"
    for entry in document["outputs"]:
        if entry["name"] == "score":
            assert entry["data"] == [0.0, 1.0]
            continue
        size = entry["parameters"]["binary_data_size"]
        blob, rest = rest[:size], rest[size:]
        if entry["name"] == "verdict":
            assert (
                blob == struct.pack("<I", 6) + b"accept" + struct.pack("<I", 12) + b"uncalibrated"
            )
        else:
            array = np.frombuffer(blob, "<f4").reshape(entry["shape"])
            expected = np.stack(getattr(scores(), entry["name"])).astype(np.float32)
            np.testing.assert_array_equal(array, expected)
    assert rest == b""


def test_maps_of_several_sizes_are_no_tensor():
    mixed = scores(sizes=((4, 5), (5, 4)))
    encode(asked([{"name": "score"}]), mixed, "m", "1")
    with pytest.raises(Refusal, match="anomaly_map: images of several sizes give no tensor"):
        encode(asked([{"name": "anomaly_map"}]), mixed, "m", "1")
