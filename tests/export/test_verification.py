import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from robustad.calibration import Platt
from robustad.conformal import ConformalScores
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError, VerificationError
from robustad.export import verify
from robustad.export.verification import _nearest_p_value
from robustad.verdict import Policy


def copy_of(detector, **changes):
    """The same detector with other options."""
    options = {**detector.config().model_dump(exclude={"backbone"}), **changes}
    twin = AnomalyDINO("filters", **options)
    twin.bank, twin.centre, twin.whitening = detector.bank, detector.centre, detector.whitening
    twin.calibrator, twin.policy = detector.calibrator, detector.policy
    twin.conformal = detector.conformal
    return twin


def scale_initialiser(name, factor):
    def edit(model):
        [tensor] = [entry for entry in model.graph.initializer if entry.name == name]
        scaled = (numpy_helper.to_array(tensor) * factor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(scaled, name))

    return edit


def edit_metadata(change):
    def edit(model):
        [entry] = [entry for entry in model.metadata_props if entry.key == "robustad"]
        document = json.loads(entry.value)
        change(document)
        entry.value = json.dumps(document)

    return edit


def test_generated_images_pass_in_every_batch_size(masked):
    result = verify(masked.detector, masked.path, threads=1)
    result.raise_if_failed()
    assert result.passed
    assert result.failures == []
    assert {shape[0] for shape in result.shapes} == {1, 2, 3, 4, 5}
    assert len({shape[1:] for shape in result.shapes}) == 2
    assert result.images == 30
    assert 0 < max(result.differences.values()) < 1e-4  # two engines, never equal to the last bit
    assert result.mask_flips == 0
    assert result.providers == ["CPUExecutionProvider"]
    assert str(result).startswith(
        "detector and file agree on 30 images in 10 batches of 64 x 64, 64 x 80 pixels; "
        "largest differences: score "
    )


def test_probability_may_differ_by_what_the_score_may(masked):
    result = verify(masked.detector, masked.path, batch_sizes=[1], threads=1)
    slope = masked.detector.calibrator.slope
    assert slope > 4
    assert result.tolerances["probability"] == pytest.approx(1e-5 * slope / 4)
    assert result.tolerances["entropy"] == result.tolerances["probability"]
    assert result.tolerances["score"] == 1e-5


def test_every_image_of_a_folder_is_used(masked, tmp_path, make_images):
    sizes = [(64, 80), (90, 64), (64, 80), (64, 80), (130, 100)]
    for i, (height, width) in enumerate(sizes):
        [image] = make_images(1, height, width, seed=i)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    result = verify(masked.detector, masked.path, images=tmp_path, batch_sizes=[2], threads=1)
    result.raise_if_failed()
    assert result.shapes == [(2, 64, 80), (2, 64, 80), (2, 88, 64), (2, 80, 64)]


def test_result_is_ready_for_json(masked, vit):
    result = verify(masked.detector, masked.path, batch_sizes=[1, 2], threads=1)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["passed"] is True
    assert document["differences"].keys() == document["tolerances"].keys()
    assert document["shapes"][0] == [1, 64, 64]
    # NaN on one side only
    vit.detector.calibrator = masked.detector.calibrator
    try:
        result = verify(vit.detector, vit.path, batch_sizes=[1], threads=1)
    finally:
        vit.detector.calibrator = None
    assert result.differences["probability"] == np.inf
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["passed"] is False
    assert document["differences"]["probability"] is None
    assert any("calibration is None" in failure for failure in document["failures"])


@pytest.mark.parametrize("which", ["vit", "resnet", "contrast"])
def test_other_detectors_pass(which, request):
    exported = request.getfixturevalue(which)
    result = verify(exported.detector, exported.path, batch_sizes=[1, 3], threads=1)
    result.raise_if_failed()


@pytest.mark.parametrize("which", ["masked", "vit", "resnet", "contrast"])
def test_other_engine_agrees(request, which):
    pytest.importorskip("openvino")
    exported = request.getfixturevalue(which)
    result = verify(
        exported.detector, exported.path, batch_sizes=[1, 3], threads=1, engine="openvino"
    )
    result.raise_if_failed()
    assert result.providers == ["OpenVINO:CPU"]


def test_a_changed_bank_fails(masked, tampered):
    names = [entry.name for entry in onnx.load(masked.path).graph.initializer]
    [bank] = [name for name in names if name.endswith("bank_0")]
    path = tampered(masked.path, scale_initialiser(bank, 0.9))
    result = verify(masked.detector, path, batch_sizes=[1], threads=1)
    assert result.differences["score"] > 1e-3
    assert str(result).startswith("detector and file do not agree on ")
    assert any(failure.startswith("golden: ") for failure in result.failures)
    with pytest.raises(VerificationError, match=r"disagrees.*score differs by .*allowed 1e-05"):
        result.raise_if_failed()


def test_a_slightly_changed_calibration_in_the_graph_fails(masked, tampered):
    path = tampered(masked.path, scale_initialiser("calibration_intercept", 1.01))
    result = verify(masked.detector, path, batch_sizes=[1], threads=1)
    assert result.mismatches == []
    with pytest.raises(VerificationError, match="probability differs by"):
        result.raise_if_failed()


def test_changed_held_out_scores_in_the_graph_fail(masked, tampered):
    path = tampered(masked.path, scale_initialiser("conformal_scores", 2.0))
    result = verify(masked.detector, path, batch_sizes=[2], threads=1)
    assert result.mismatches == []
    with pytest.raises(VerificationError, match="p_value differs by"):
        result.raise_if_failed()


def test_a_changed_policy_in_the_graph_fails(masked, tampered):
    def edit(model):
        for entry in model.graph.initializer:
            if entry.name == "policy_threshold":
                entry.CopyFrom(numpy_helper.from_array(np.array(1e-9), entry.name))

    result = verify(masked.detector, tampered(masked.path, edit), batch_sizes=[3], threads=1)
    assert result.mismatches == []
    with pytest.raises(VerificationError, match=r"verdict differs on some images"):
        result.raise_if_failed()


def test_a_score_at_a_held_out_one_may_fall_on_either_side(masked, make_images):
    """p-values jump there by 1/(n + 1), for differences that are allowed of the scores."""
    x = make_images(3, 64, 80, seed=9)
    twin = copy_of(masked.detector)
    scores = twin.predict(x).score
    exact = np.nextafter(scores, np.float32(1))  # a last digit above: p = 1/4 in one engine
    twin.conformal = ConformalScores(exact)
    result = verify(twin, masked.path, images=x, batch_sizes=[1], threads=1)
    held_out = [text for text in result.failures if not text.startswith("metadata: conformal")]
    assert all(text.startswith("p_value differs") for text in held_out)  # of the file's own scores
    expected = _nearest_p_value(twin, scores, np.array([0.5, 0.75, 1.0]), 1e-5)
    for found, score in zip(expected, scores, strict=True):
        low, high = (twin.conformal.p_values([score + way])[0] for way in (1e-5, -1e-5))
        assert low <= found <= high


def test_a_detector_with_another_calibration_or_policy_fails(masked):
    twin = copy_of(masked.detector)
    platt = masked.detector.calibrator
    twin.calibrator = platt.with_prior(0.01)
    result = verify(twin, masked.path, batch_sizes=[1], threads=1)
    assert not result.passed
    assert [text.split(" is ")[0] for text in result.mismatches] == ["metadata: calibration"]
    twin.calibrator = platt
    twin.policy = Policy(threshold=0.9)
    result = verify(twin, masked.path, batch_sizes=[1], threads=1)
    assert [text.split(" is ")[0] for text in result.mismatches] == ["metadata: policy"]
    twin.policy, twin.conformal = masked.detector.policy, None
    result = verify(twin, masked.path, batch_sizes=[1], threads=1)
    assert [text.split(" is ")[0] for text in result.mismatches] == ["metadata: conformal"]
    assert result.differences["p_value"] == np.inf


def test_a_detector_with_another_bank_or_options_fails(masked):
    twin = copy_of(masked.detector, map_sigma=3.0)
    twin.bank = masked.detector.bank.clone()
    twin.bank[0, 0] += 1e-3
    result = verify(twin, masked.path, batch_sizes=[1], threads=1)
    names = [text.removeprefix("metadata: ").split(" is ")[0] for text in result.mismatches]
    assert names == ["config", "tensors_sha256", "map_sigma"]
    assert result.differences["anomaly_map"] > 1e-4


def test_masks_that_differ_are_counted(masked):
    twin = copy_of(masked.detector, mask_threshold=1.1)
    result = verify(twin, masked.path, batch_sizes=[3], threads=1)
    assert result.mask_flips > 0
    with pytest.raises(VerificationError, match="patches are foreground in one engine only"):
        result.raise_if_failed()


def test_training_mode_comes_back(contrast):
    contrast.detector.train()
    try:
        verify(contrast.detector, contrast.path, batch_sizes=[1], threads=1)
        assert contrast.detector.training
    finally:
        contrast.detector.eval()


def test_the_shipped_golden_outputs_are_checked(masked, tampered):
    def change(document):
        document["golden"]["outputs"]["score"] += 0.1

    path = tampered(masked.path, edit_metadata(change))
    result = verify(masked.detector, path, batch_sizes=[1], threads=1)
    assert len(result.failures) == 1
    assert "golden output score" in result.failures[0]
    path = tampered(masked.path, edit_metadata(lambda document: document.update(golden={})))
    result = verify(masked.detector, path, batch_sizes=[1], threads=1)
    assert [text.split(": ")[0] for text in result.failures] == ["golden"]


def test_options_out_of_range(masked, resnet, tmp_path, make_images):
    for sizes in ((), (0, 1)):
        with pytest.raises(InputError, match=r"batch_sizes: expected sizes >= 1"):
            verify(masked.detector, masked.path, batch_sizes=sizes)
    for name in ("score_tolerance", "map_tolerance"):
        with pytest.raises(InputError, match=f"{name}: expected >= 0, got nan"):
            verify(masked.detector, masked.path, **{name: float("nan")})
    with pytest.raises(InputError, match="images: expected at least one image"):
        verify(masked.detector, masked.path, images=[])
    with pytest.raises(InputError, match="no such ONNX file"):
        verify(masked.detector, tmp_path / "missing.onnx")
    twin = AnomalyDINO(resnet.detector.backbone, image_size=64, top_fraction=3)
    twin.bank = torch.clone(resnet.detector.bank)
    twin.calibrator = resnet.detector.calibrator
    with pytest.raises(InputError, match=r"image 0: prepared to 64 x 96.*\(64, 64\) only"):
        verify(twin, resnet.path, images=make_images(1, 64, 96, seed=1))
    assert isinstance(masked.detector.calibrator, Platt)
