"""Detectors exported with robustad's own operator, beside the portable file and torch."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from robustad import runtime
from robustad.calibration import Platt
from robustad.detectors import AnomalyDINO, BankEnsemble
from robustad.errors import InputError, MissingDependencyError
from robustad.export import export_onnx, translation_table, verify
from robustad.export.anomaly_dino import CHUNK, ChunkedNeighbours
from robustad.export.custom_ops import SearchedNeighbours, use_custom_ops
from robustad.ops import cosine_nn

SHARED = Path(__file__).parents[2] / ".." / "shared"
RESNET = SHARED / "weights" / "resnet18_layers1to3.safetensors"
SCREWS = SHARED / "data" / "mvtec_screw" / "screw"


@pytest.fixture(scope="module", autouse=True)
def library():
    try:
        return runtime.custom_ops_library()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node if node.domain == "robustad"]


class Pair(NamedTuple):
    detector: AnomalyDINO
    portable: Path
    custom: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory, means, make_images):
    """Whitening, k = 3, calibration and free sizes, exported both ways."""
    detector = AnomalyDINO(means(), image_size=48, k=3, whiten=True)
    detector.fit(make_images(3, 48, 64, seed=1))
    detector.calibrator = Platt().fit(detector.predict(make_images(4, 48, 64, 2)).score, [0, 1] * 2)
    folder = tmp_path_factory.mktemp("pair")
    portable = export_onnx(detector, folder / "portable.onnx", input="float_nchw")
    return Pair(
        detector,
        portable,
        export_onnx(detector, folder / "custom.onnx", input="float_nchw", custom_ops=True),
    )


def test_the_same_outputs_as_the_portable_file(pair, make_batch):
    assert operators(pair.portable) == []
    assert operators(pair.custom) == ["CosineNearest"]
    one, other = (runtime.load(path, threads=1) for path in (pair.custom, pair.portable))
    for count in (1, 4):
        for width in (48, 72):
            x = make_batch(count, 48, width, 3)
            found, expected = one.run(x), other.run(x)
            assert found.keys() == expected.keys()
            for name, values in found.items():
                np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-5, err_msg=name)
            one.calibration = other.calibration = (2.0, 0.5)  # still overridable


def test_it_is_verified_and_says_what_it_needs(pair):
    verify(pair.detector, pair.custom, threads=1).raise_if_failed()
    assert runtime.load(pair.custom).metadata["custom_ops"] == ["robustad.CosineNearest"]
    assert runtime.load(pair.portable).metadata["custom_ops"] == []


def test_a_fixed_size_an_older_operator_set_and_every_bank_of_an_ensemble(
    means, make_images, tmp_path
):
    view = AnomalyDINO(means(), image_size=48, square=True)
    detector = BankEnsemble([view], banks=3).fit(make_images(2, 64, 80, seed=1))
    path = export_onnx(
        detector, tmp_path / "custom.onnx", input="float_nchw", opset=18, custom_ops=True
    )
    assert operators(path) == ["CosineNearest"] * 3
    verify(detector, path, threads=1).raise_if_failed()


@pytest.mark.slow
@pytest.mark.skipif(
    not (RESNET.is_file() and SCREWS.is_dir()),
    reason="no shared/weights and shared/data beside the repository",
)
def test_real_images_and_features(tmp_path):
    train = sorted((SCREWS / "train" / "good").iterdir())[:6]
    detector = AnomalyDINO("resnet18", RESNET, image_size=112, k=2, square=True).fit(train)
    assert len(detector.bank) == 6 * 14 * 14
    path = export_onnx(detector, tmp_path / "custom.onnx", custom_ops=True)
    test = sorted((SCREWS / "test").glob("*/*"))[::40]
    result = verify(detector, path, images=test, batch_sizes=(1, 3), threads=1)
    result.raise_if_failed()
    assert result.images >= len(test) > 3
    assert result.differences["patch_scores"] <= 1e-5


def test_a_detector_without_a_bank(contrast, tmp_path):
    with pytest.raises(InputError, match="custom_ops: expected a detector with a memory bank"):
        export_onnx(contrast.detector, tmp_path / "custom.onnx", custom_ops=True)
    assert not list(tmp_path.iterdir())


def test_a_file_where_the_library_is_missing(pair, monkeypatch):
    monkeypatch.setattr("robustad.runtime._custom_ops.LIBRARY", "_nothing")
    with pytest.raises(MissingDependencyError, match=r"custom.onnx: robustad's operators .* not"):
        verify(pair.detector, pair.custom)


@pytest.mark.parametrize("k", [1, 3])
def test_the_module_is_the_chunked_one(k):
    generator = torch.Generator().manual_seed(0)
    bank = F.normalize(torch.randn(CHUNK + 5, 24, generator=generator))
    features = torch.randn(2, 50, 24, generator=generator)
    chunked = torch.nn.Sequential(ChunkedNeighbours(bank, k))
    expected = chunked(features)
    searched = use_custom_ops(chunked)
    assert isinstance(searched[0], SearchedNeighbours)
    assert torch.equal(searched[0].get_buffer("bank"), bank)
    torch.testing.assert_close(searched(features), expected, rtol=0, atol=2e-6)


def test_a_module_of_ones_own(tmp_path, library):
    import onnxruntime as ort

    class Nearest(torch.nn.Module):
        def __init__(self):
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.register_buffer("bank", torch.randn(60, 16, generator=generator))

        def forward(self, x):
            return cosine_nn(x, self.bank, 2)

    module, x = Nearest().eval(), torch.randn(7, 16, generator=torch.Generator().manual_seed(1))
    program = torch.onnx.export(
        module, (x,), dynamo=True, verbose=False,
        custom_translation_table=translation_table(custom_ops=True),
    )  # fmt: skip
    program.save(tmp_path / "own.onnx")
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library))
    session = ort.InferenceSession(str(tmp_path / "own.onnx"), options)
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = module(x)
    np.testing.assert_allclose(found[0], expected[0].numpy(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found[1], expected[1].numpy())
