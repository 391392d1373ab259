"""Put `robustad serve` under load, with malformed and oversized requests mixed in.

    python benchmarks/load_service.py MODEL.onnx --seconds 60 --clients 4

The service is started with room for fewer requests than there are clients, so that it works at its
limit and has to refuse some. Every answer is checked: scores against the runtime's own, refusals
against the status that they should have. The service's memory is sampled all the while.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from robustad import runtime

BODY_MIB = 1
SAMPLE_SECONDS = 0.2
FEW = 5
LENGTH = "Inference-Header-Content-Length"


def started(model, *, clients, more=()):
    """Start the service on a free port; the process and its address."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "robustad", "serve", f"part={model}", "--port", "0"),
            *("--threads", "1", "--requests", str(max(1, clients - 1)), "--body", str(BODY_MIB)),
            *("--images", "4", "--megapixels", "0.2", *more),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if " at http" in line:
            return process, line.split(" at ")[1].strip()
    raise SystemExit(f"the service did not start, code {process.wait()}")


def pictures(count=12):
    """Small images of several sizes."""
    rng = np.random.default_rng(0)
    sizes = [(48, 64), (60, 80), (90, 50)]
    return [rng.integers(0, 256, (*sizes[i % 3], 3), dtype=np.uint8) for i in range(count)]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def binary(name, datatype, array, *, size=None, length=None):
    """An infer request with one tensor in binary."""
    blob = array.tobytes()
    tensor = {
        "name": name,
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(blob) if size is None else size},
    }
    text = json.dumps({"inputs": [tensor], "outputs": [{"name": "score"}]}).encode()
    headers = {LENGTH: str(len(text) if length is None else length)}
    return {"url": INFER, "content": text + blob, "headers": headers}


INFER, SCORE = "/v2/models/part/infer", "/score"


def good_requests(images):
    """Requests of every kind, and the places of their images."""
    found = []
    for i, pixels in enumerate(images):
        found.append(({"url": SCORE, "content": png(pixels)}, [i]))
        found.append((binary("pixels", "UINT8", pixels[None]), [i]))
    pair = np.stack([images[0], images[3]])
    found.append((binary("pixels", "UINT8", pair), [0, 3]))
    data = {"name": "pixels", "datatype": "UINT8", "shape": list(pair.shape)}
    data["data"] = pair.ravel().tolist()
    document = {"inputs": [data], "outputs": [{"name": "score"}]}
    found.append(({"url": INFER, "content": json.dumps(document).encode()}, [0, 3]))
    return found


def bad_requests(images):
    """Malformed and oversized requests, and the status each must have."""
    content = png(images[0])
    big = np.zeros((600, 600, 3), np.uint8)
    tensor = np.zeros((1, 3, 48, 64), np.float32)
    return [
        ({"url": INFER, "content": b"{"}, 400),
        ({"url": INFER, "content": b"[" * 100_000}, 400),
        ({"url": INFER, "content": b'{"inputs": []}'}, 400),
        ({"url": "/v2/models/other/infer", "content": b"{}"}, 404),
        (binary("pixels", "UINT8", images[0][None], size=3), 400),
        (binary("pixels", "UINT8", images[0][None], length="x"), 400),
        (binary("pixels", "UINT8", images[0][None], length=10**9), 400),
        (binary("image", "FP32", tensor + np.nan), 400),
        (binary("image", "FP32", tensor[..., :50]), 400),
        (binary("pixels", "UINT8", np.zeros((9, 48, 64, 3), np.uint8)), 413),
        ({"url": SCORE, "content": b"no image"}, 400),
        ({"url": SCORE, "content": content[: len(content) // 2]}, 400),
        ({"url": SCORE, "content": png(big)}, 413),
        ({"url": SCORE, "content": b"\0" * (2 * BODY_MIB << 20)}, 413),
        ({"url": SCORE, "content": iter([b"\0" * 65536] * (24 * BODY_MIB))}, 413),
        ({"url": SCORE + "?answer=nothing", "content": content}, 400),
    ]


class Tally:
    """What the clients saw."""

    def __init__(self):
        self.seconds, self.codes, self.wrong = [], Counter(), []
        self.lock = threading.Lock()

    def enough(self, until):
        """Whether time is up; a machine that had no time for a few answers gets a minute more."""
        late = time.monotonic() - until
        return late > 0 and (len(self.seconds) >= FEW or late > 60)

    def add(self, code, seconds, wrong):
        with self.lock:
            self.codes[code] += 1
            if code == 200:
                self.seconds.append(seconds)
            if wrong:
                self.wrong.append(wrong)


def client(address, expected, images, until, seed, tally):
    """Ask one request after another; one in five is bad."""
    rng = np.random.default_rng(seed)
    good = good_requests(images)
    with httpx.Client(base_url=address, timeout=60) as connection:
        while not tally.enough(until):
            bad = rng.random() < 0.2
            # made anew: one of them is a stream, which can be sent once
            requests = bad_requests(images) if bad else good
            request, want = requests[rng.integers(len(requests))]
            start = time.perf_counter()
            try:
                answer = connection.post(**request)
            except httpx.HTTPError as error:
                tally.add(type(error).__name__, 0, f"{request['url']}: {error!r}")
                continue
            seconds, code = time.perf_counter() - start, answer.status_code
            tally.add(code, seconds, check(answer, bad, want, expected))
            if code == 503:
                time.sleep(0.02)  # Retry-After says a second; this is a load test


def check(answer, bad, want, expected):
    """What is wrong with an answer, if anything."""
    code = answer.status_code
    if code == 503:
        return None if "retry-after" in answer.headers else "503 without Retry-After"
    if bad:
        clear = "error" in answer.json()
        return None if code == want and clear else f"{code}, expected {want}: {answer.text[:200]}"
    if code != 200:
        return f"{code}, expected 200: {answer.text[:200]}"
    document = answer.json()
    found = document["outputs"][0]["data"] if "outputs" in document else [document["score"]]
    close = np.allclose(found, [expected[i] for i in want], rtol=0, atol=1e-5)
    return None if close else f"scores {found}, expected {[expected[i] for i in want]}"


def resident(pid):
    """Resident memory of a process in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def run(model, *, seconds, clients, more=()):
    """Put the service under load; what was seen."""
    images = pictures()
    expected = runtime.load(model, threads=1).predict(images).score.tolist()
    process, address = started(model, clients=clients, more=more)
    tally, memory = Tally(), []
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=client, args=(address, expected, images, until, i, tally))
        for i in range(clients)
    ]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and process.poll() is None:
            memory.append(resident(process.pid))
            time.sleep(SAMPLE_SECONDS)
        for thread in threads:
            thread.join()
        alive = process.poll() is None
        ready = alive and httpx.get(f"{address}/v2/health/ready").status_code == 200
        metrics = httpx.get(f"{address}/metrics").text if alive else ""
    finally:
        process.terminate()
        log = process.stderr.read()
        code = process.wait(timeout=60)
    quarter = max(1, len(memory) // 4)
    ordered = np.sort(tally.seconds)
    return {
        "seconds": seconds,
        "clients": clients,
        "answers": {str(code): count for code, count in sorted(tally.codes.items(), key=str)},
        "wrong": tally.wrong[:10],
        "requests_per_second": round(sum(tally.codes.values()) / seconds, 1),
        "latency_ms": {
            f"p{p}": round(1000 * float(np.percentile(ordered, p)), 1) for p in (50, 90, 99, 100)
        }
        if len(ordered)
        else {},
        "memory_mib": {
            "first": round(memory[0], 1),
            "second_quarter": round(statistics.median(memory[quarter : 2 * quarter + 1]), 1),
            "last_quarter": round(statistics.median(memory[-quarter:]), 1),
            "peak": round(max(memory), 1),
        },
        "alive_at_the_end": alive,
        "ready_at_the_end": ready,
        "exit_code_after_sigterm": code,
        "log": log[-2000:],
        "metrics_count_200": sum(
            float(line.split()[-1])
            for line in metrics.splitlines()
            if line.startswith("robustad_requests_total") and 'code="200"' in line
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    found = run(options.model, seconds=options.seconds, clients=options.clients)
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["wrong"]) or not found["ready_at_the_end"])


if __name__ == "__main__":
    main()
