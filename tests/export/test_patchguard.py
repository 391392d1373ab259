import numpy as np
import pytest
import torch

from robustad import runtime
from robustad.calibration import Platt
from robustad.detectors import PatchGuard
from robustad.errors import InputError
from robustad.export import export_onnx, verify
from robustad.networks import NetworkConfig
from robustad.verdict import Policy

TINY = {
    "image_size": 56,
    "depth": 1,
    "embed_dim": 32,
    "num_heads": 2,
    "discriminator_hidden": 48,
    "layer_scale": 1.0,
}
CONFIGS = {
    "discriminator": NetworkConfig(**TINY, body="vit_small_patch14_reg4_dinov2"),
    "bigbird without": NetworkConfig(
        **TINY, discriminator=False, attention="bigbird", bigbird={"block_size": 2}
    ),
    "resnet": NetworkConfig(body="resnet18", image_size=56),
    "unet": NetworkConfig(body="unet", image_size=56, unet_width=4, unet_depth=2),
}


# Convolutional bodies have many layers, each of which takes its time to trace.
SLOW = ("resnet", "unet")
KINDS = [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in CONFIGS]


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    torch.manual_seed(0)
    detector = PatchGuard(CONFIGS[request.param])
    detector.calibrator = Platt().fit([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1])
    detector.policy = Policy(threshold=0.4)
    path = tmp_path_factory.mktemp("guard") / "guard.onnx"
    return detector, export_onnx(detector, path, input="float_nchw")


def test_file_scores_as_the_detector_does(exported, make_images, make_batch):
    detector, path = exported
    found = verify(detector, path, images=make_images(3, 70, 90, seed=1), batch_sizes=(1, 3))
    found.raise_if_failed()
    file = runtime.load(path)
    assert file.image_size == (56, 56)
    assert file.metadata["method"] == "patchguard"
    assert file.metadata["config"] == detector.config().model_dump(mode="json")
    # What was compared is not all the same: the bodies are random, not flat.
    scores = file.run(make_batch(3, 56, 56, seed=2))["patch_scores"]
    assert (scores.std(axis=1) > 1e-4).all()
    images = make_images(2, 64, 80, seed=3)
    ours, theirs = detector.predict(images), file.predict(images)
    np.testing.assert_allclose(theirs.score, ours.score, atol=1e-5)
    np.testing.assert_allclose(theirs.anomaly_map[1], ours.anomaly_map[1], atol=1e-4)
    assert theirs.verdict == ours.verdict


def test_another_engine(exported, engines_agree):
    engines_agree(exported[1], [(56, 56)], (1, 4))


def test_size_cannot_be_free_or_another(tmp_path):
    detector = PatchGuard(CONFIGS["bigbird without"])
    with pytest.raises(InputError, match=r"dynamic_size: .* export with dynamic_size=False"):
        export_onnx(detector, tmp_path / "guard.onnx", dynamic_size=True)
    with pytest.raises(InputError, match="expected 56 x 56 pixels, got 112 x 112"):
        export_onnx(detector, tmp_path / "guard.onnx", image_size=(112, 112))
    assert list(tmp_path.iterdir()) == []


def test_another_networks_file_is_noticed(exported):
    detector, path = exported
    torch.manual_seed(1)
    other = PatchGuard(detector.network.config)
    result = verify(other, path, batch_sizes=(1,))
    assert not result.passed
    assert any("tensors_sha256" in one for one in result.mismatches)
    assert "differs by" in " ".join(result.failures)
