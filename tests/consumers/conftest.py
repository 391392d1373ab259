"""The example programs, and the exported files and images that they are run on."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from PIL import Image

from robustad import runtime
from robustad.calibration import Platt
from robustad.conformal import ConformalScores
from robustad.detectors import AnomalyDINO
from robustad.export import export_onnx
from robustad.runtime._verdicts import policy_numbers
from robustad.verdict import Policy

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
NOTHING = {
    "calibration_slope", "calibration_intercept", "conformal_scores", "conformal_anomalous"
}  # fmt: skip
SIZES = ((60, 80), (60, 80), (131, 97), (48, 48), (48, 64), (7, 200), (300, 420), (1, 1))


class Ran(NamedTuple):
    code: int
    lines: list
    errors: list


@pytest.fixture(scope="session")
def source():
    """The folder of the examples, which are not installed."""
    folder = ROOT / "docs" / "consumers"
    if not folder.is_dir():
        pytest.skip("needs the source")
    return folder


@pytest.fixture(scope="session")
def run():
    """Run a program; its exit code, the JSON lines it prints, and its lines of errors."""

    def start(command, *, stdin=""):
        done = subprocess.run(
            [str(one) for one in command],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return Ran(done.returncode, lines, done.stderr.splitlines())

    return start


@pytest.fixture(scope="session")
def node(source, run):
    """Run the JavaScript example."""
    binary = shutil.which("node")
    if binary is None:
        pytest.skip("needs node")
    folder = source / "node"
    lock = json.loads((folder / "package-lock.json").read_text())
    wanted = lock["packages"]["node_modules/onnxruntime-node"]["version"]
    package = folder / "node_modules" / "onnxruntime-node" / "package.json"
    found = json.loads(package.read_text())["version"] if package.is_file() else None
    if found != wanted:
        pytest.skip(
            f"needs onnxruntime-node {wanted} in {folder.relative_to(ROOT)}, got {found}: "
            "make node-engine"
        )
    command = [binary, folder / "score.mjs", "--threads", "1"]
    return lambda *given, **more: run([*command, *given], **more)


@pytest.fixture(scope="session")
def compiler():
    found = shutil.which("g++")
    if found is None or shutil.which("make") is None:
        pytest.skip("needs g++ and make")
    return found


@pytest.fixture(scope="session")
def library():
    """onnxruntime's library, which pip's package brings along."""
    folder = Path(importlib.util.find_spec("onnxruntime").origin).parent / "capi"
    found = sorted(folder.glob("libonnxruntime.so.*"))
    if not found:
        pytest.skip("needs an onnxruntime package with libonnxruntime.so.*")
    return found[-1]


@pytest.fixture(scope="session")
def build(source, compiler):
    """Build the C++ example in a folder, without onnxruntime's header and without a warning."""

    def make(folder, *more):
        flags = "-O1 -Wpedantic -Wshadow -Wconversion -Werror"
        command = ["make", "-s", "-j2", f"CXX={compiler}", f"CXXFLAGS={flags}", f"BUILD={folder}"]
        done = subprocess.run(
            [*command, *more], cwd=source / "cpp", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return folder / "score"

    return make


@pytest.fixture(scope="session")
def program(build, tmp_path_factory):
    """The C++ example, built."""
    return build(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="session")
def cpp(program, library, run):
    """Run the C++ example."""
    command = [program, "--library", library, "--threads", "1"]
    return lambda *given, **more: run([*command, *given], **more)


@pytest.fixture(scope="session")
def detector(means, make_images):
    """A calibrated detector with held-out scores of both kinds."""
    made = AnomalyDINO(means(), image_size=48).fit(make_images(5, 60, 80, seed=0)[::2])
    scores = made.predict(make_images(12, 60, 80, seed=1)).score
    made.calibrator = Platt().fit(scores, np.arange(12) % 2)
    held_out = made.predict(make_images(20, 60, 80, seed=2)[::2]).score
    made.conformal = ConformalScores(held_out, anomalous=scores[1::2])
    made.policy = Policy(threshold=0.3, entropy_threshold=0.65)
    return made


@pytest.fixture(scope="session")
def exported(detector, tmp_path_factory):
    """The file that takes images as they are."""
    return export_onnx(
        detector, tmp_path_factory.mktemp("exported") / "part.onnx", input="uint8_nhwc"
    )


@pytest.fixture(scope="session")
def edited(exported, tmp_path_factory):
    """Copy the file, changed: numbers of its graph by name, fields of its metadata, or by hand."""
    folder = tmp_path_factory.mktemp("edited")

    def edit(name, *, numbers=None, by_hand=None, source=exported, **fields):
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            if numbers and tensor.name in numbers:
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                value = np.asarray(numbers[tensor.name], dtype)
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        [entry] = model.metadata_props
        entry.value = json.dumps(json.loads(entry.value) | fields)
        if by_hand:
            by_hand(model)
        path = folder / name
        onnx.save(model, path)
        return path

    return edit


@pytest.fixture(scope="session")
def variants(exported, edited):
    """Files by what they know: calibration, held-out scores, all parts of a policy, nothing."""

    def with_policy(name, policy, **fields):
        return edited(name, numbers=policy_numbers(policy) | fields.pop("numbers", {}),
                      policy=policy.to_dict(), **fields)  # fmt: skip

    nan = {"calibration_slope": np.nan, "calibration_intercept": np.nan}
    none = {"conformal_scores": [np.nan], "conformal_anomalous": [np.nan]}
    everything = Policy(
        threshold=0.3, entropy_threshold=0.65, p_value_threshold=0.1, p_value_defer=0.2,
        anomaly_threshold=0.2, suspicion_threshold=0.1,
    )  # fmt: skip
    return {
        "calibrated": with_policy(
            "calibrated.onnx", Policy(threshold=0.3), numbers=none, conformal=None
        ),
        "entropy": exported,
        "conformal": with_policy(
            "conformal.onnx", Policy(p_value_threshold=0.1), numbers=nan, calibration=None
        ),
        "everything": with_policy("everything.onnx", everything),
        "uncalibrated": with_policy(
            "plain.onnx", Policy(), numbers=nan | none, calibration=None, conformal=None
        ),
    }


@pytest.fixture(scope="session")
def plain_images(tmp_path_factory, make_images):
    """PPM and PGM files of many sizes."""
    folder = tmp_path_factory.mktemp("plain images")
    for i, size in enumerate(SIZES):
        Image.fromarray(make_images(2, *size, seed=5 + i)[i % 2]).save(folder / f"{i}.ppm")
    pixels = make_images(1, 33, 57, seed=50)[0]
    (folder / "grey.pgm").write_bytes(b"P5 57 33 255\n" + pixels[..., 0].tobytes())
    deep = pixels[..., 1].astype(">u2") * 257 + np.arange(57, dtype=">u2")
    (folder / "deep.pgm").write_bytes(b"P5\n# a camera\n57 33\n65535\n" + deep.tobytes())
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def png_images(tmp_path_factory, make_images):
    """PNG files of every kind that Pillow writes, some of cameras that were held otherwise."""
    folder = tmp_path_factory.mktemp("png")
    good, bad, third, fourth = make_images(4, 60, 80, seed=5)
    Image.fromarray(good).save(folder / "good.png")
    Image.fromarray(bad).save(folder / 'bad ü " quoted.png')
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(fourth).save(folder / f"turned {orientation}.png", exif=exif)
    grey = fourth.astype(np.uint16)[..., 0] * 257 + np.arange(80, dtype=np.uint16)
    Image.fromarray(grey).save(folder / "deep.png")
    alpha = np.dstack([bad, np.full(bad.shape[:2], 90, np.uint8)])
    Image.fromarray(alpha).save(folder / "alpha.png")
    Image.fromarray(bad).quantize(40).save(folder / "palette.png", transparency=3)
    Image.fromarray(third).quantize(4).save(folder / "few.png", bits=2)
    Image.fromarray(third).convert("L").save(folder / "grey.png")
    Image.fromarray(third).convert("LA").save(folder / "grey alpha.png")
    Image.fromarray(bad).convert("1").save(folder / "bits.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def check_same():
    """Compare a program's lines with what robustad.runtime makes of the images."""

    def check(ran, path, images, *, threshold=None):
        model = runtime.load(path, threads=1)
        if threshold is not None:
            model.policy = dataclasses.replace(model.policy, threshold=threshold)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # 16 bits are rounded
            wanted = model.predict(images).to_records()
        assert ran.errors == []
        assert ran.code == 0
        assert [set(line) for line in ran.lines] == [
            {"name", "score", "probability", "entropy", "p_value", "verdict"} for _ in wanted
        ]
        for line, record in zip(ran.lines, wanted, strict=True):
            assert line["name"] == record["name"]
            assert line["verdict"] == record["verdict"], record["name"]
            for number, room in (
                ("score", 1e-5), ("probability", 1e-5), ("entropy", 1e-5), ("p_value", 1e-6)
            ):  # fmt: skip
                if record[number] is None:
                    assert line[number] is None, record["name"]
                else:
                    assert line[number] == pytest.approx(record[number], rel=0, abs=room), line
        return {line["verdict"] for line in ran.lines}

    return check


@pytest.fixture(scope="session")
def check_refused():
    """One line that names the file and says what is wrong, and exit code 2."""

    def check(ran, path, message):
        assert ran.code == 2
        assert len(ran.errors) == 1, ran.errors
        assert ran.errors[0].startswith(f"{path}: "), ran.errors
        assert message in ran.errors[0]

    return check
