"""Threads, kernels without a GPU, and what tests of several folders share."""

import os
import sys
import types
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from robustad.backbones import Backbone, BackboneConfig
from robustad.calibration import Platt
from robustad.detectors import AnomalyDINO
from robustad.verdict import Policy

# Triton kernels are interpreted where there is no GPU. Read when a kernel module is imported, so
# before any test is.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Most tests are many tiny operations: handing each out to threads costs more than it does, and on
# a busy machine many times more. The environment may say otherwise.
THREADS = torch.get_num_threads()
if not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & set(os.environ):
    torch.set_num_threads(1)


@pytest.fixture
def all_threads():
    """As many threads as torch takes by itself, for code that shares its work between them."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


class Exported(NamedTuple):
    detector: AnomalyDINO
    path: Path


class Means(Backbone):
    """Local means of colours and their squares: quick to trace."""

    has_weights = False

    def __init__(self):
        super().__init__()
        self.config = BackboneConfig(name="means")
        self.patch_size = self.multiple = 8
        self.dim = 6

    def features(self, x):
        maps = torch.cat([x, 4 * (x - x.mean(dim=(2, 3), keepdim=True)).square()], dim=1)
        return F.avg_pool2d(maps, 8).flatten(2).transpose(1, 2)


def images_of(count, height, width, seed):
    """Stripes and noise, with a bright square in every second image."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(count):
        stripes = 90 + 50 * np.sin(np.arange(width) / 3 + rng.uniform(0, 6))
        pixels = stripes[None, :, None] + rng.normal(0, 8, (height, width, 3))
        if i % 2:
            pixels[height // 3 : height // 2, width // 3 : width // 2] = 240
        images.append(pixels.clip(0, 255).astype(np.uint8))
    return images


@pytest.fixture(scope="session")
def engines_agree():
    """Compare what OpenVINO and onnxruntime make of a file; the model that OpenVINO runs."""
    pytest.importorskip("openvino")
    from robustad import runtime

    def compare(path, sizes, batches=(1, 2, 3, 4, 5), *, atol=1e-5):
        ours, theirs = (
            runtime.load(path, engine=engine, threads=1) for engine in ("openvino", "onnxruntime")
        )
        assert (ours.engine, ours.providers) == ("openvino", ["OpenVINO:CPU"])
        assert (theirs.engine, theirs.outputs) == ("onnxruntime", ours.outputs)
        assert ours.check_golden() < 1e-3
        for size in sizes:
            images = np.stack(images_of(max(batches), *size, seed=sum(size)))
            if ours.input_form == "float_nchw":
                images = np.ascontiguousarray(images.transpose(0, 3, 1, 2) / np.float32(255))
            for batch in batches:
                found, expected = (m.run(images[:batch], m.outputs) for m in (ours, theirs))
                for name in ours.outputs:
                    assert found[name].dtype == expected[name].dtype
                    scale = 10 if name in ("patch_scores", "anomaly_map", "probability_map") else 1
                    np.testing.assert_allclose(
                        found[name], expected[name], rtol=0, atol=scale * atol, err_msg=name
                    )
        return ours

    return compare


@pytest.fixture(scope="session")
def means():
    """A backbone class that is quick to trace."""
    return Means


@pytest.fixture(scope="session")
def make_images():
    return images_of


@pytest.fixture(scope="session")
def write_images():
    """Write images to a folder; their paths."""

    def write(folder, count, *, size=(48, 64), seed=0, name="part_{:03d}.png"):
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name.format(i) for i in range(count)]
        for path, pixels in zip(paths, images_of(count, *size, seed), strict=True):
            Image.fromarray(pixels).save(path)
        return paths

    return write


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A calibrated detector that takes images of any aspect ratio."""
    from robustad.export import export_onnx  # takes its time

    detector = AnomalyDINO(Means(), image_size=48).fit(images_of(5, 60, 80, seed=0)[::2])
    scores = detector.predict(images_of(12, 60, 80, seed=1)).score
    detector.calibrator = Platt().fit(scores, np.arange(12) % 2)
    detector.policy = Policy(threshold=0.3, entropy_threshold=0.65)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return Exported(detector, export_onnx(detector, path))


@pytest.fixture(scope="session")
def model(exported):
    from robustad import runtime

    return runtime.load(exported.path, threads=1)


class RayStandIn(types.ModuleType):
    """As much of Ray as workers use, in this process: actors that die when told to.

    `deaths` has the beginnings of names of pieces, each as often as a worker dies of it.
    """

    class RayActorError(Exception):
        pass

    def __init__(self, deaths=(), cpus=2, gpus=0):
        super().__init__("ray")
        self.exceptions = self
        self.deaths, self.killed, self.up = list(deaths), 0, False
        self.started, self.options = [], None
        self.resources = {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})

    def is_initialized(self):
        return self.up

    def init(self, **_):
        self.up = True

    def shutdown(self):
        self.up = False

    def nodes(self):
        return [
            {"Alive": True, "Resources": self.resources},
            {"Alive": False, "Resources": {"CPU": 99.0}},
        ]

    def put(self, thing):
        return types.SimpleNamespace(thing=thing)

    def kill(self, actor):
        self.killed += 1

    def wait(self, tasks, num_returns):
        return tasks[-num_returns:], tasks[:-num_returns]

    def get(self, task):
        return task()

    def remote(self, **options):
        self.options = options
        return lambda kind: types.SimpleNamespace(
            remote=lambda job, threads: self.actor(kind(job.thing, threads))
        )

    def actor(self, worker):
        self.started.append(worker)

        def do(piece):
            def task():
                for name in self.deaths:
                    if piece.name.startswith(name):
                        self.deaths.remove(name)
                        raise self.RayActorError("killed")
                return worker.do(piece)

            return task

        return types.SimpleNamespace(
            start=types.SimpleNamespace(remote=lambda: worker.start),
            do=types.SimpleNamespace(remote=do),
        )


@pytest.fixture
def ray_stand_in(monkeypatch):
    """Have `import ray` give a stand-in; its options are those of `RayStandIn`."""

    def put(**options):
        ray = RayStandIn(**options)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    return put
