import asyncio
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from robustad import runtime
from robustad.errors import InputError, MissingDependencyError
from robustad.export import export_onnx
from robustad.images import read_image
from robustad.overlay import overlay
from robustad.serve import Limits, create_app, serve

ROOT = Path(__file__).parents[2]
INFER = "/v2/models/part/infer"


def start(model_path, *more):
    """The command in a process of its own, and its address."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "robustad", "serve", f"part={model_path}"),
            *("--port", "0", "--threads", "1", *map(str, more)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if " at http" in line:
            return process, line.split(" at ")[1].strip()
    raise AssertionError(f"did not start: {process.wait()}")


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def service(exported):
    process, address = start(exported.path, "--body", 1, "--images", 4, "--megapixels", 0.05)
    yield address
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in process.stderr.read()


@pytest.fixture
def client(service):
    with httpx.Client(base_url=service, timeout=60) as connection:
        yield connection


def tensor(name, datatype, array, **more):
    data = {"data": array.ravel().tolist()} if "parameters" not in more else {}
    entry = {"name": name, "datatype": datatype, "shape": list(array.shape), **data, **more}
    return {"inputs": [entry]}


def outputs_of(answer):
    assert answer.status_code == 200, answer.text
    return {entry["name"]: entry for entry in answer.json()["outputs"]}


def test_health_and_metadata(client, model):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    server = client.get("/v2").json()
    assert server["name"] == "robustad"
    assert "binary_tensor_data" in server["extensions"]
    for path in ("/v2/models/part", "/v2/models/part/versions/1"):
        found = client.get(path).json()
        assert (found["name"], found["versions"]) == ("part", ["1"])
        assert {"name": "score", "datatype": "FP32", "shape": [-1]} in found["outputs"]
        assert found["robustad"] == model.metadata
        assert client.get(path + "/ready").json() == {"name": "part", "ready": True}


def test_a_file_that_takes_bytes(exported, tmp_path, make_images):
    path = export_onnx(exported.detector, tmp_path / "bytes.onnx")
    images = make_images(3, 60, 80, seed=4)
    expected = runtime.load(path, threads=1).predict(images)
    process, address = start(path)
    try:
        with httpx.Client(base_url=address, timeout=60) as client:
            inputs = client.get("/v2/models/part").json()["inputs"]
            assert {entry["name"] for entry in inputs} == {"pixels", "file"}
            asked = tensor("pixels", "UINT8", np.stack(images))
            found = outputs_of(client.post(INFER, json=asked))
            np.testing.assert_allclose(found["score"]["data"], expected.score, atol=1e-6)
            assert found["verdict"]["data"] == [str(verdict) for verdict in expected.verdict]
            assert found["anomaly_map"]["shape"] == [3, 60, 80]
            one = client.post("/score", content=png(images[1])).json()
            assert one["score"] == pytest.approx(expected.score[1], abs=1e-6)
            prepared = tensor("image", "FP32", np.zeros((1, 3, 48, 64), np.float32))
            answer = client.post(INFER, json=prepared)
            assert answer.status_code == 400
            assert "as this model prepares images" in answer.json()["error"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_tensors(client, model, make_images):
    pixels = np.stack(make_images(3, 60, 80, seed=4))
    expected = model.predict(pixels)
    found = outputs_of(client.post(INFER, json=tensor("pixels", "UINT8", pixels)))
    np.testing.assert_allclose(found["score"]["data"], expected.score, atol=1e-6)
    np.testing.assert_allclose(found["probability"]["data"], expected.probability, atol=1e-6)
    assert found["verdict"]["data"] == [str(verdict) for verdict in expected.verdict]
    assert found["anomaly_map"]["shape"] == [3, 60, 80]
    np.testing.assert_allclose(
        np.reshape(found["anomaly_map"]["data"], (3, 60, 80)), expected.anomaly_map, atol=1e-5
    )
    x = np.random.default_rng(0).random((2, 3, 48, 64), np.float32)
    document = {
        **tensor("image", "FP32", x, parameters={"binary_data_size": x.nbytes}),
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "patch_scores"}, {"name": "score"}],
    }
    text = json.dumps(document).encode()
    answer = client.post(
        INFER,
        content=text + x.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(text))},
    )
    length = int(answer.headers["Inference-Header-Content-Length"])
    grid, score = json.loads(answer.content[:length])["outputs"]
    blob = np.frombuffer(answer.content[length:], "<f4")
    expected = model.run(x, ["patch_scores", "score"])
    np.testing.assert_allclose(
        blob[:-2].reshape(grid["shape"]), expected["patch_scores"], atol=1e-6
    )
    np.testing.assert_allclose(blob[-2:], expected["score"], atol=1e-6)
    assert score["parameters"] == {"binary_data_size": 8}


def test_uploads(client, model, make_images):
    [_, pixels] = make_images(2, 60, 80, seed=4)
    [expected] = model.predict(pixels).to_records()
    found = client.post("/score", content=png(pixels)).json()
    assert found["model"] == "part"
    assert found["verdict"] == expected["verdict"]
    assert found["score"] == pytest.approx(expected["score"], abs=1e-6)
    assert found["probability"] == pytest.approx(expected["probability"], abs=1e-6)
    answer = client.post("/score?answer=overlay&model=part", content=png(pixels))
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-robustad-verdict"] == expected["verdict"]
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)))
    wanted = overlay(read_image(pixels), model.predict(pixels).anomaly_map[0])
    assert np.abs(drawn.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("path", "content", "status", "message"),
    [
        (INFER, b"{", 400, "expected a JSON document"),
        (INFER, b"[" * 50_000, 400, "expected a JSON document"),
        (INFER, tensor("image", "FP32", np.zeros((1, 3, 48, 50))), 400, "whole multiples of 8"),
        (INFER, tensor("image", "FP32", np.full((1, 3, 48, 48), 7)), 400, r"in \[0, 1\]"),
        (INFER, tensor("pixels", "UINT8", np.zeros((5, 2, 2, 3), int)), 413, "at most 4 images"),
        (INFER, tensor("pixels", "UINT8", np.zeros((1, 300, 300, 3), int)), 413, "50000 pixels"),
        ("/v2/models/other/infer", b"{}", 404, "expected a model of part in version 1"),
        ("/v2/models/part/versions/2/infer", b"{}", 404, "in version 1"),
        ("/nothing", b"", 404, "Not Found"),
        ("/v2/health/live", b"", 405, "Method Not Allowed"),
        ("/score", b"", 400, "expected the bytes of an image file"),
        ("/score", b"GIF89a" + b"\0" * 50, 400, "expected the bytes of an image file"),
        ("/score", "half", 400, "cannot be read as an image"),
        ("/score", "bomb", 413, "at most 50000 pixels, got 90000"),
        ("/score?model=x", b"", 404, "expected a model of part"),
        ("/score?answer=x", b"", 400, "answer: expected json or overlay, got x"),
        ("/score", b"\0" * (3 << 20), 413, "at most 1048576 bytes"),
        ("/score", [b"\0" * (1 << 16)] * 40, 413, "at most 1048576 bytes"),
    ],
)
def test_refused(client, path, content, status, message):
    files = {
        "half": png(np.full((60, 60, 3), 9, np.uint8))[:60],
        "bomb": png(np.zeros((300, 300, 3), np.uint8)),
    }
    if isinstance(content, dict):
        content = json.dumps(content).encode()
    content = files.get(content, content) if isinstance(content, str) else content
    answer = client.post(path, content=iter(content) if isinstance(content, list) else content)
    assert answer.status_code == status
    assert re.search(message, answer.json()["error"])
    assert client.get("/v2/health/ready").status_code == 200


def test_a_client_that_lies_about_the_length(service, client):
    host, port = service.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert b"400" in raw.recv(1000)
    deadline = time.monotonic() + 30
    while 'code="499"' not in client.get("/metrics").text and time.monotonic() < deadline:
        time.sleep(0.05)
    assert 'code="499"' in client.get("/metrics").text
    assert client.get("/v2/health/ready").status_code == 200


def test_metrics(client, make_images):
    def value(name, **labels):
        text = client.get("/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0

    before = value("robustad_batch_images_sum", model="part")
    refused = value("robustad_requests_total", endpoint="/score", code="400")
    for pixels in make_images(3, 48, 64, seed=1):
        client.post("/score", content=png(pixels))
    client.post("/score", content=b"no image")
    assert value("robustad_batch_images_sum", model="part") == before + 3
    assert value("robustad_requests_total", endpoint="/score", code="400") == refused + 1
    assert value("robustad_requests_total", endpoint="/score", code="200") >= 3
    assert value("robustad_queue_images", model="part") == 0
    assert value("process_resident_memory_bytes") > 2**20


def test_requests_at_work_are_finished_before_it_stops(exported):
    process, address = start(exported.path, "--delay", 5000)
    answers = []

    def ask():
        pixels = np.full((48, 64, 3), 9, np.uint8)
        answers.append(httpx.post(f"{address}/score", content=png(pixels), timeout=60))

    asking = threading.Thread(target=ask)
    asking.start()
    deadline = time.monotonic() + 60
    while "in_progress 1" not in httpx.get(f"{address}/metrics", timeout=60).text:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGTERM)
    asking.join(60)
    assert process.wait(timeout=60) == 0
    assert [answer.status_code for answer in answers] == [200]


def test_a_slow_body_and_too_many_requests(exported, model):
    """In this process, where the limits can be small."""
    limits = Limits(requests=1, body_seconds=0.3)
    app = create_app({"part": model}, limits)

    async def run():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:

            async def slowly():
                yield b"a"
                await asyncio.sleep(1.0)
                yield b"b"

            slow = asyncio.create_task(client.post("/score", content=slowly()))
            await asyncio.sleep(0.05)
            full = await client.post("/score", content=b"x")
            live = await client.get("/v2/health/live")
            return await slow, full, live

    slow, full, live = asyncio.run(run())
    app.state.service.close()
    assert slow.status_code == 408
    assert "within 0.3 seconds" in slow.json()["error"]
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    assert "1 requests are at work" in full.json()["error"]
    assert live.status_code == 200


def test_no_answer_in_time_and_a_failing_model(model, monkeypatch):
    app = create_app({"part": model}, Limits(seconds=0.2))

    def ask():
        async def run():
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.post("/score", content=png(np.zeros((48, 48, 3), np.uint8)))

        return asyncio.run(run())

    plain = model.predict
    monkeypatch.setattr(model, "predict", lambda *a, **k: time.sleep(1) or plain(*a, **k))
    assert ask().status_code == 504

    def fail(*_, **__):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(model, "predict", fail)
    time.sleep(1.2)
    answer = ask()
    app.state.service.close()
    assert answer.status_code == 500
    assert answer.json() == {"error": "the model failed: RuntimeError"}


def test_what_cannot_be_served(model, monkeypatch):
    with pytest.raises(InputError, match="models: expected at least one, got none"):
        create_app({})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"host, port: cannot listen at 127.0.0.1:{port}"):
            serve({"part": model}, port=port)
    for name in ("fastapi", "prometheus_client", "uvicorn"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, name, None)
            with pytest.raises(MissingDependencyError, match=rf"{name} .*robustad\[serve\]"):
                serve({"part": model}, port=0)


def test_under_load(exported):
    spec = spec_from_file_location("load_service", ROOT / "benchmarks" / "load_service.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    found = script.run(exported.path, seconds=3, clients=4)
    assert found["wrong"] == []
    assert found["answers"]["200"] > 0
    assert found["alive_at_the_end"]
    assert found["ready_at_the_end"]
    assert found["exit_code_after_sigterm"] == 0
    assert "Traceback" not in found["log"]
