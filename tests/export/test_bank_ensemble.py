"""Ensembles and their members as ONNX; what can't be exported says so."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from robustad.backbones import create
from robustad.certificates import SmoothedDetector
from robustad.detectors import AnomalyDINO, BankEnsemble
from robustad.errors import InputError, NotFittedError
from robustad.export import export_onnx


def agreement(detector, path, x):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = ["score", "patch_scores", "anomaly_map"]
    score, patch, smooth = session.run(names, {"image": x})
    with torch.no_grad():
        own = detector.patch_scores(torch.from_numpy(x))
        expected = detector.aggregate(own).numpy()
        maps = detector.anomaly_map(own, x.shape[2:]).numpy()
    np.testing.assert_allclose(score, expected, atol=2e-5)
    np.testing.assert_allclose(patch, own.numpy(), atol=1e-4)
    np.testing.assert_allclose(smooth, maps, atol=1e-4)


def test_bootstrapped_banks_of_free_size(make_images, make_batch, tmp_path):
    view = AnomalyDINO("filters", image_size=64, k=2, reduce="max", prune=0.1)
    detector = BankEnsemble([view], banks=3).fit(make_images(2, 64, 80, seed=1))
    path = export_onnx(detector, tmp_path / "x.onnx", input="float_nchw")
    for shape in ((64, 64), (64, 96)):
        agreement(detector, path, make_batch(2, *shape, seed=2))


def test_layers_on_one_grid(make_images, make_batch, tmp_path):
    torch.manual_seed(0)
    views = [
        AnomalyDINO(create("resnet18", "random", layers=(layer,)), image_size=64, square=True)
        for layer in (2, 3)
    ]
    detector = BankEnsemble(views).fit(make_images(2, 64, 80, seed=1))
    path = export_onnx(detector, tmp_path / "x.onnx", input="float_nchw")
    agreement(detector, path, make_batch(2, 64, 64, seed=2))


def test_what_cannot_be_exported(make_images, tmp_path):
    view = AnomalyDINO("filters", image_size=64)
    with pytest.raises(NotFittedError, match="no memory bank"):
        export_onnx(BankEnsemble([view]), tmp_path / "x.onnx")
    smoothed = SmoothedDetector(view).fit(make_images(1, 64, 64, seed=1))
    with pytest.raises(InputError, match="a smoothed detector draws its noise outside"):
        export_onnx(smoothed, tmp_path / "x.onnx")
    assert not [*tmp_path.iterdir()]
