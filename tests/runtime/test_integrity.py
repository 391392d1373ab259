import hashlib
import shutil
import subprocess
import sys

import onnx
import pytest

from robustad import runtime
from robustad.errors import InputError, StateError
from robustad.runtime.integrity import check_integrity, manifest_file, manifest_text


@pytest.fixture
def copied(exported, tmp_path):
    """The file and its manifest, to be changed."""
    for path in (exported.path, manifest_file(exported.path)):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / exported.path.name


@pytest.fixture
def with_data(exported, tmp_path):
    """The file with its tensors beside it, and a manifest of both."""
    path = tmp_path / "large.onnx"
    onnx.save(
        onnx.load(exported.path),
        path,
        save_as_external_data=True,
        location="large.onnx.data",
        size_threshold=100,
    )
    data = tmp_path / "large.onnx.data"
    manifest_file(path).write_text(manifest_text([path, data]))
    return path, data


def flipped(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_export_writes_a_manifest_that_sha256sum_reads(exported):
    manifest = manifest_file(exported.path)
    digest = hashlib.sha256(exported.path.read_bytes()).hexdigest()
    assert manifest.read_text() == f"{digest}  model.onnx\n"
    tool = shutil.which("sha256sum")
    if tool is not None:
        command = [tool, "--check", "--strict", manifest.name]
        done = subprocess.run(command, cwd=manifest.parent, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert check_integrity(exported.path) == ["model.onnx"]


def place_of_a_float(path):
    """Where the file has the first float of its largest tensor."""
    raw = max((one.raw_data for one in onnx.load(path).graph.initializer), key=len)
    return path.read_bytes().index(raw)


def test_a_file_that_was_tampered_with(copied):
    # A changed float of the bank leaves a file that onnxruntime runs without complaint.
    flipped(copied, place_of_a_float(copied))
    runtime.load(copied, threads=1, integrity="skip")
    with pytest.raises(StateError, match=r"model\.onnx: changed or truncated since it was export"):
        runtime.load(copied, threads=1)


def test_data_beside_the_file(with_data):
    path, data = with_data
    runtime.load(path, threads=1, integrity="require")
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(StateError, match=r"large\.onnx\.data: changed or truncated"):
        runtime.load(path)
    data.write_bytes(content)
    flipped(data, 10)
    with pytest.raises(StateError, match=r"large\.onnx\.data: changed or truncated"):
        runtime.load(path)
    data.unlink()
    with pytest.raises(StateError, match=r"large\.onnx\.data: listed in large\.onnx\.sha256, but"):
        runtime.load(path)


def test_without_a_manifest(copied):
    manifest_file(copied).unlink()
    assert check_integrity(copied) == []
    runtime.load(copied, threads=1)
    with pytest.raises(StateError, match=r"expected its SHA-256 manifest model\.onnx\.sha256"):
        runtime.load(copied, integrity="require")


def test_a_manifest_known_from_elsewhere(copied):
    digest = hashlib.sha256(manifest_file(copied).read_bytes()).hexdigest()
    runtime.load(copied, threads=1, sha256=digest.upper())
    # whoever changes the file changes the manifest with it
    flipped(copied, place_of_a_float(copied))
    manifest_file(copied).write_text(manifest_text([copied]))
    runtime.load(copied, threads=1)
    with pytest.raises(StateError, match=rf"expected the manifest with SHA-256 {digest}, got"):
        runtime.load(copied, sha256=digest)
    manifest_file(copied).unlink()
    with pytest.raises(StateError, match="expected its SHA-256 manifest"):
        runtime.load(copied, sha256=digest)
    with pytest.raises(InputError, match="sha256: expected 64 hexadecimal digits, got 'abc'"):
        runtime.load(copied, sha256="abc")
    with pytest.raises(InputError, match="integrity: expected one of auto, require, skip, got 'n"):
        runtime.load(copied, integrity="no")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a damaged manifest: it is empty"),
        ("nonsense\n", "a damaged manifest: expected lines of a SHA-256 .* got 'nonsense'"),
        (f"{'0' * 64}  ../model.onnx\n", "name of a file beside it"),
        (f"{'0' * 63}  model.onnx\n", "a damaged manifest: expected lines"),
        (f"{'0' * 64}  other.onnx\n", r"lists other\.onnx, but not model\.onnx: was the file ren"),
        ("\0\ufffd", "a damaged manifest"),
    ],
)
def test_manifests_that_cannot_be_used(copied, text, message):
    manifest_file(copied).write_text(text)
    with pytest.raises(StateError, match=message):
        runtime.load(copied)
    manifest_file(copied).write_bytes(b"\xff\xfe")
    with pytest.raises(StateError, match="a damaged manifest"):
        runtime.load(copied)


@pytest.mark.parametrize(
    ("opset", "message"),
    [
        (99, r"operator set 99, which the installed onnxruntime .* does not know: upgrade it"),
        (11, r"written in ONNX operator set 11, expected 18 or newer"),
    ],
)
def test_operator_sets_that_do_not_fit(exported, tmp_path, opset, message):
    model = onnx.load(exported.path)
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = opset
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(StateError, match=message):
        runtime.load(path)


def test_every_truncation_is_refused(exported, tmp_path):
    content = exported.path.read_bytes()
    path = tmp_path / "model.onnx"
    step = max(1, len(content) // 40)
    for length in [*range(0, len(content), step), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(StateError, match=r"model\.onnx: "):
            runtime.load(path, threads=1)


def test_a_renamed_copy_without_its_manifest_still_loads(exported, tmp_path):
    path = tmp_path / "line3.onnx"
    shutil.copy(exported.path, path)
    assert runtime.load(path, threads=1).check_golden() < 1e-5


def test_what_the_runtime_loads():
    """numpy and onnxruntime, and of robustad what it needs."""
    code = (
        "import numpy, onnxruntime, sys; before = set(sys.modules); import robustad.runtime; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    # submodules that numpy loads on first use, and what its random numbers are compiled with
    assert {name for name in foreign if "cython" not in name} <= {"robustad", "numpy"}
    ours = {name.split(".")[1] for name in loaded if name.count(".") and name[:8] == "robustad"}
    assert ours <= {
        *("runtime", "errors", "images", "geometry", "verdict", "prediction"),
        *("conformal", "metrics", "probability"),
        *("_files", "_imports", "_batching"),
    }
