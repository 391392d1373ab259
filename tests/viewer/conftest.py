"""Detectors, images, node, and a headless Chromium that is told what to do over a pipe."""

import base64
import fcntl
import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from PIL import Image

from robustad.calibration import Platt
from robustad.conformal import ConformalScores
from robustad.detectors import AnomalyDINO
from robustad.export import export_onnx
from robustad.verdict import Policy

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "robustad" / "viewer"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 60.0


class Exported(NamedTuple):
    floats: Path
    bytes: Path
    plain: Path


@pytest.fixture(scope="session")
def exported(tmp_path_factory, means, make_images):
    """A calibrated detector in both forms of input, and one that nothing is known of."""
    folder = tmp_path_factory.mktemp("exported")
    detector = AnomalyDINO(means(), image_size=48).fit(make_images(5, 60, 80, seed=0)[::2])
    scores = detector.predict(make_images(12, 60, 80, seed=1)).score
    detector.calibrator = Platt().fit(scores, np.arange(12) % 2)
    held_out = detector.predict(make_images(20, 60, 80, seed=2)[::2]).score
    detector.conformal = ConformalScores(held_out, anomalous=scores[1::2])
    detector.policy = Policy(threshold=0.3, entropy_threshold=0.65, p_value_threshold=0.1)
    floats = export_onnx(detector, folder / "floats.onnx", input="float_nchw")
    whole = export_onnx(detector, folder / "bytes.onnx", input="uint8_nhwc")
    return Exported(floats, whole, forgetful(floats, folder / "plain.onnx"))


def forgetful(path, out):
    """Copy a file without its calibration, its held-out scores and its policy."""
    model = onnx.load(path)
    nothing = {"calibration_slope", "calibration_intercept", "conformal_scores"}
    nothing |= {"conformal_anomalous", "policy_entropy_threshold", "policy_p_value_threshold"}
    for tensor in model.graph.initializer:
        if tensor.name in nothing:
            values = onnx.numpy_helper.to_array(tensor)
            first = (
                np.full(values.shape, np.nan, values.dtype)[:1] if values.ndim else values * np.nan
            )
            tensor.CopyFrom(onnx.numpy_helper.from_array(first.astype(values.dtype), tensor.name))
    edit_metadata(model, calibration=None, conformal=None,
                  policy={"threshold": 0.5, "entropy_threshold": None})  # fmt: skip
    onnx.save(model, out)
    return out


def edit_metadata(model, **changes):
    [entry] = model.metadata_props
    entry.value = json.dumps(json.loads(entry.value) | changes)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory, make_images):
    """Image files of many kinds that Pillow and the page have to read alike."""
    folder = tmp_path_factory.mktemp("photographs")
    first, second, third, fourth = make_images(4, 60, 80, seed=5)
    Image.fromarray(first).save(folder / "a_good.png")
    Image.fromarray(second).save(folder / "b_bad.png")
    Image.fromarray(make_images(2, 131, 97, seed=6)[1]).save(folder / "c_tall.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(third).save(folder / "d_turned.jpg", quality=95, exif=exif)
    Image.fromarray(fourth).save(folder / "e_turned.png", exif=exif)
    grey = fourth.astype(np.uint16)[..., 0] * 257 + 7
    Image.fromarray(grey).save(folder / "f_deep.png")
    alpha = np.dstack([second, np.full(second.shape[:2], 90, np.uint8)])
    Image.fromarray(alpha).save(folder / "g_alpha.png")
    Image.fromarray(second).quantize(40).save(folder / "h_palette.png", transparency=3)
    Image.fromarray(first).convert("L").save(folder / "i_grey.jpg", quality=90)
    Image.fromarray(second).save(folder / "j.ppm")
    Image.fromarray(first).save(folder / "k.webp", lossless=True)
    Image.fromarray(first).save(folder / "l.bmp")
    Image.fromarray(make_images(2, 300, 420, seed=7)[1]).save(folder / "m_large.jpg", quality=85)
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """Run a script that may import the page's modules; gives what it prints as JSON."""
    binary = shutil.which("node")
    if binary is None or not SOURCE.is_dir():
        pytest.skip("needs node and the source")
    folder = tmp_path_factory.mktemp("node")

    def run(script, cases=None):
        file = folder / "script.mjs"
        page = json.dumps((SOURCE / "page").as_uri() + "/")
        read = 'JSON.parse((await import("node:fs")).readFileSync(0, "utf8"), revive)'
        file.write_text(
            f"const PAGE = {page};\n"
            'const revive = (_, value) => (value === "NaN" ? NaN : value);\n'
            f"const cases = {read};\n"
            "const print = (value) => console.log(JSON.stringify(value, (_, one) => "
            'Number.isNaN(one) ? "NaN" : ArrayBuffer.isView(one) ? [...one] : one));\n' + script
        )
        text = json.dumps(cases).replace("NaN", '"NaN"')
        done = subprocess.run(
            [binary, file], input=text, capture_output=True, text=True, check=False, timeout=SECONDS
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout, object_hook=None)

    return run


@pytest.fixture(scope="session")
def engine():
    """The folder of onnxruntime-web, of the version that the viewer is pinned to."""
    folder = ROOT / "build" / "npm" / "node_modules" / "onnxruntime-web"
    lock = json.loads((SOURCE / "package-lock.json").read_text())
    wanted = lock["packages"]["node_modules/onnxruntime-web"]["version"]
    package = folder / "package.json"
    found = json.loads(package.read_text())["version"] if package.is_file() else None
    if found != wanted:
        pytest.skip(f"needs onnxruntime-web {wanted} in build/npm, got {found}: make viewer-engine")
    return folder


@pytest.fixture
def serve():
    """Serve a folder on this machine; gives its address and what was asked of it."""
    servers = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            self.server.asked.append((self.command, self.path))

    def start(folder):
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", server.asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Connection:
    """The DevTools protocol over a pipe: JSON between zeros."""

    def __init__(self, write, read):
        self._write, self._read = write, read
        self._buffer, self._count = b"", 0
        self.events = []

    def call(self, method, session=None, **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _message(self):
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            more = os.read(self._read, 1 << 20) if ready else b""
            assert more, "no answer from the browser"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


class Page:
    """A tab with cookies and storage of its own."""

    def __init__(self, connection, address, width, height):
        self._connection = connection
        self.context = connection.call("Target.createBrowserContext")["browserContextId"]
        target = connection.call(
            "Target.createTarget", url="about:blank", browserContextId=self.context
        )["targetId"]
        attached = connection.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True
        )
        self.resize(width, height)
        self.call("Page.navigate", url=address)

    def resize(self, width, height):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def call(self, method, **parameters):
        return self._connection.call(method, self._session, **parameters)

    def close(self):
        self._connection.call("Target.disposeBrowserContext", browserContextId=self.context)

    def run(self, expression, session=None):
        """Value of a JavaScript expression; promises are awaited."""
        found = self._connection.call(
            "Runtime.evaluate",
            session or self._session,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def worker_run(self, expression):
        """Value of an expression in the page's worker."""
        attached = [one["params"] for one in self._events("Target.attachedToTarget")]
        [worker] = [one for one in attached if one["targetInfo"]["type"] == "worker"]
        return self.run(expression, worker["sessionId"])

    def until(self, expression):
        end = time.monotonic() + SECONDS
        tried = f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()"
        while not self.run(tried):  # the page may not be there yet
            assert time.monotonic() < end, f"never true: {expression}\n{self.said()}"
            time.sleep(0.05)

    def choose(self, selector, files):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def screenshot(self, path):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def said(self):
        """Texts of the console and the log."""
        found = [one["params"]["entry"]["text"] for one in self._events("Log.entryAdded")]
        thrown = self._events("Runtime.exceptionThrown")
        found += [json.dumps(event["params"]["exceptionDetails"]) for event in thrown]
        for event in self._events("Runtime.consoleAPICalled"):
            found += [str(one.get("value")) for one in event["params"]["args"]]
        return found

    def _events(self, method):
        return [
            event
            for event in self._connection.events
            if event.get("method") == method and event.get("sessionId") == self._session
        ]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """A headless Chromium for all tests of a process."""
    binary = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if binary is None:
        pytest.skip("needs Chromium")
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()
    flags = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--remote-debugging-pipe",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    )  # fmt: skip

    def descriptors():  # Chromium reads commands from 3 and answers on 4; both may be taken
        low, high = (fcntl.fcntl(one, fcntl.F_DUPFD, 64) for one in (command_read, answer_write))
        os.dup2(high, 4)
        os.dup2(low, 3)

    process = subprocess.Popen(
        [binary, *flags, "about:blank"],
        preexec_fn=descriptors,
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(command_read)
    os.close(answer_write)
    yield Connection(command_write, answer_read)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    os.close(command_write)
    os.close(answer_read)


@pytest.fixture
def browser(chromium):
    """Open an address in a new tab."""
    pages = []

    def open_page(address, width=1280, height=900):
        pages.append(Page(chromium, address, width, height))
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()
