import json
import math

import numpy as np
import pytest

from robustad import runtime
from robustad.errors import InputError
from robustad.export import export_onnx, verify, write_parity
from robustad.export.onnx import parity_file
from robustad.export.parity import BATCH, Parity, Reference, own_golden, plain
from robustad.runtime.integrity import sha256_of


class Shifted:
    """A file whose outputs are moved by known amounts."""

    def __init__(self, file, **moves):
        self.file, self.moves = file, moves

    def run(self, x, names=None):
        found = self.file.run(x, names)
        return {name: found[name] + self.moves.get(name, 0) for name in found}


@pytest.fixture(scope="module")
def reference(masked, make_batch):
    images = [*make_batch(5, 64, 80, seed=3), *make_batch(2, 64, 64, seed=4)]
    return Reference(masked.detector, [image[None] for image in images])


@pytest.fixture(scope="module")
def file(masked):
    return runtime.load(masked.path, threads=1)


def test_batches_hold_every_image_and_one_alone(reference):
    assert [len(x) for x in reference.batches] == [BATCH, 1, 2, 1]
    assert len(reference.images) == 7
    assert reference.score_scale == 1.0


def test_a_float32_file_is_near(reference, file):
    found = reference.compare(file)
    assert found.verdict_flips == 0
    assert 0 < found.score_error < 1e-4
    assert found.patch_error < 1e-4
    assert found.probability_error < 1e-4
    assert found.p_value_error < 1e-6


def test_differences_are_found(reference, file):
    moves = {"score": 0.25, "patch_scores": -0.5, "anomaly_map": 0.75, "probability": 0.125}
    found = reference.compare(Shifted(file, **moves, p_value=0.0625, verdict=1))
    assert found.score_error == pytest.approx(0.25, abs=1e-4)
    assert found.patch_error == pytest.approx(0.5, abs=1e-4)
    assert found.map_error == pytest.approx(0.75, abs=1e-4)
    assert found.probability_error == pytest.approx(0.125, abs=1e-4)
    assert found.p_value_error == pytest.approx(0.0625, abs=1e-4)
    assert found.verdict_flips == 7  # every image once, also the one that is compared alone
    assert reference.spread(Shifted(file, score=0.25), 3) == pytest.approx(0.25, abs=1e-4)


def test_nan_is_infinitely_far(reference, file):
    found = reference.compare(Shifted(file, score=math.nan))
    assert found.score_error == math.inf
    assert plain(found)["score_error"] is None


def test_what_is_not_calibrated_is_not_compared(resnet, contrast, make_batch):
    images = [image[None] for image in make_batch(2, 64, 64, seed=3)]
    found = Reference(contrast.detector, images).compare(runtime.load(contrast.path, threads=1))
    assert found.probability_error is None
    assert found.p_value_error is None


def test_large_scores_set_the_scale(contrast_class, make_batch):
    detector = contrast_class()
    detector.offset.data += 30
    images = [image[None] for image in make_batch(2, 64, 64, seed=3)]
    assert 30 < Reference(detector, images).score_scale < 31.5


def test_times_are_by_image(reference, file, monkeypatch):
    now = [0.0]

    class Slow:
        def __init__(self, seconds):
            self.seconds = seconds

        def run(self, x):
            assert len(x) == 8
            now[0] += self.seconds

    monkeypatch.setattr("robustad.export.parity.time.perf_counter", lambda: now[0])
    found, eager = reference.times({"a": Slow(0.4), "b": Slow(0.8)}, batch_size=8, threads=1)
    assert found == {"a": pytest.approx(50.0), "b": pytest.approx(100.0)}
    assert eager == 0.0


def test_golden_is_the_files_own(file):
    assert own_golden(file) == pytest.approx(file.metadata["golden"]["outputs"], abs=1e-4)


def test_reports_are_of_one_file(contrast, tmp_path):
    path = export_onnx(contrast.detector, tmp_path / "a.onnx", input="float_nchw")
    assert not parity_file(path).exists()
    found = verify(contrast.detector, path, threads=1)
    out = write_parity(path, verification=found.to_dict())
    assert out == tmp_path / "a.onnx.parity.json"
    report = json.loads(out.read_text())
    assert report["file"] == "a.onnx"
    assert report["sha256"] == sha256_of(path)
    assert report["verification"]["passed"] is True
    assert report["target"] is None
    report = json.loads(write_parity(path, target={"chosen": "x"}).read_text())
    assert report["verification"]["passed"] is True  # kept: it is the same file
    assert report["target"] == {"chosen": "x"}
    path.write_bytes(path.read_bytes() + b"\n")
    report = json.loads(write_parity(path, target={"chosen": "y"}).read_text())
    assert report["verification"] is None  # of another file
    out.write_text("[]")
    assert json.loads(write_parity(path).read_text())["target"] is None


def test_a_new_export_takes_the_old_report_away(contrast, tmp_path):
    path = export_onnx(contrast.detector, tmp_path / "a.onnx", input="float_nchw")
    write_parity(path)
    with pytest.raises(InputError):
        export_onnx(contrast.detector, path, bank="int8")
    assert parity_file(path).exists()  # nothing was replaced
    export_onnx(contrast.detector, path)
    assert not parity_file(path).exists()


def test_ready_for_json():
    one = Parity(
        score_error=np.inf, patch_error=0.5, map_error=0.0, probability_error=None,
        p_value_error=None, verdict_flips=2,
    )  # fmt: skip
    assert json.loads(json.dumps(plain(one), allow_nan=False)) == {
        "score_error": None, "patch_error": 0.5, "map_error": 0.0, "probability_error": None,
        "p_value_error": None, "verdict_flips": 2,
    }  # fmt: skip
