"""The calibration inside an exported file, against the calibrator in float64."""

import io
import json

import numpy as np
import onnxruntime as ort
import pytest
import torch

from robustad.calibration import (
    Beta,
    Isotonic,
    PixelPlatt,
    Platt,
    RawScore,
    Temperature,
    with_bootstrap_band,
)
from robustad.errors import InputError
from robustad.export import export_onnx, verify
from robustad.export.calibration import ISOTONIC, Calibrated, calibration_inputs, steepness
from robustad.export.metadata import ArtefactMetadata
from robustad.probability import probability_of
from robustad.runtime import load
from robustad.verdict import binary_entropy

pytestmark = pytest.mark.filterwarnings("ignore:(Isotonic|Temperature)")


def sample(seed=0, size=400):
    """Scores as float32 has them, from -4 to 4."""
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % 2
    scores = rng.normal(1.5 * labels - 0.75, 1.0).clip(-4, 4).astype(np.float32)
    return scores.astype(np.float64), labels


CALIBRATORS = {
    "platt": Platt,
    "temperature": Temperature,
    "beta": lambda: Beta(score_range=(-4.0, 4.0)),
    "beta of logits": lambda: Beta(score_range=None),
    "isotonic": Isotonic,
    "shifted isotonic": Isotonic,
}


def calibrator_of(name):
    found = CALIBRATORS[name]().fit(*sample())
    return found.with_prior(0.001) if name.startswith("shifted") else found


def session_of(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=[*CALIBRATORS, "raw"])
def alone(request, contrast_class):
    """A calibrator, and its part of the graph as a file of its own."""
    detector = contrast_class()
    detector.calibrator = RawScore() if request.param == "raw" else calibrator_of(request.param)
    numbers = calibration_inputs(detector)
    arguments = (torch.zeros(5), *(torch.from_numpy(value) for value in numbers.values()))
    batch, knots = torch.export.Dim("batch"), torch.export.Dim("knots", min=2)
    lengths = [{0: knots} if name in ISOTONIC else None for name in numbers]
    module = Calibrated(detector)
    own = (tuple(lengths[2:]),) if lengths[2:] else ()
    shapes = ({0: batch}, None, None, *own)
    exported = torch.export.export(module, arguments, dynamic_shapes=shapes, strict=False)
    file = io.BytesIO()
    names = ["score", *numbers]
    torch.onnx.export(
        exported, dynamo=True, verbose=False, opset_version=20, input_names=names,
        output_names=["probability", "entropy"], dynamic_shapes=({0: batch}, *lengths),
    ).save(file)  # fmt: skip
    return detector.calibrator, module, numbers, session_of(file.getvalue())


SCORES = np.concatenate(
    [
        np.linspace(-6, 6, 4001),
        [0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, 3.4e38, -3.4e38, np.inf, -np.inf],
    ]
).astype(np.float32)


def test_torch_and_onnxruntime_agree_with_the_calibrator(alone):
    calibrator, module, numbers, session = alone
    at = SCORES.astype(np.float64)
    expected = probability_of(calibrator.to_dict(), at)
    finite = np.isfinite(at)
    np.testing.assert_array_equal(expected[finite], calibrator.predict_proba(at[finite]))
    tensors = [torch.from_numpy(value) for value in numbers.values()]
    by_torch = [part.numpy() for part in module(torch.from_numpy(SCORES), *tensors)]
    by_onnx = session.run(None, {"score": SCORES, **numbers})
    for probability, entropy in (by_torch, by_onnx):
        assert probability.dtype == entropy.dtype == np.float32
        np.testing.assert_allclose(probability, expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(entropy, binary_entropy(expected), rtol=0, atol=1e-5)
        assert ((probability >= 0) & (probability <= 1)).all()
        assert (entropy >= 0).all()
    np.testing.assert_allclose(by_torch[0], by_onnx[0], rtol=0, atol=1e-6)
    order = np.argsort(SCORES[finite], kind="stable")
    for probability in (by_torch[0], by_onnx[0]):
        assert (np.diff(probability[finite][order]) >= -5e-7).all()


def test_nan_in_gives_nan_out(alone):
    _, module, numbers, session = alone
    score = np.array([np.nan, 0.5], np.float32)
    tensors = [torch.from_numpy(value) for value in numbers.values()]
    by_torch = [part.numpy() for part in module(torch.from_numpy(score), *tensors)]
    for found in (by_torch, session.run(None, {"score": score, **numbers})):
        for values in found:
            assert np.isnan(values[0])
            assert np.isfinite(values[1])


def test_slope_and_intercept_replace_any_curve(alone):
    *_, numbers, session = alone
    changed = {
        **numbers,
        "calibration_slope": np.float32(3),
        "calibration_intercept": np.float32(1),
    }
    found = session.run(
        None, {"score": SCORES[:4001], **{k: np.array(v) for k, v in changed.items()}}
    )
    expected = 1 / (1 + np.exp(-3 * SCORES[:4001].astype(np.float64) - 1))
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[1], binary_entropy(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("alone", ["isotonic"], indirect=True)
@pytest.mark.parametrize("count", [2, 3, 50])
def test_another_isotonic_curve_may_have_other_knots(alone, count):
    *_, numbers, session = alone
    rng = np.random.default_rng(count)
    knots = np.sort(rng.normal(0, 2, count)).astype(np.float32)
    values = np.sort(rng.random(count)).astype(np.float32)
    given = dict(zip(ISOTONIC, (knots, values, 1 - values), strict=True))
    [found] = session.run(["probability"], {"score": SCORES, **numbers, **given})
    np.testing.assert_allclose(found, np.interp(SCORES, knots, values), rtol=0, atol=1e-6)


@pytest.mark.parametrize("alone", ["isotonic"], indirect=True)
def test_knots_in_one_place_are_a_step(alone):
    *_, numbers, session = alone
    knots, values = np.array([0, 1, 1, 2], np.float32), np.array([0, 0.2, 0.8, 1], np.float32)
    given = dict(zip(ISOTONIC, (knots, values, 1 - values), strict=True))
    score = np.array([0.999, 1.0, 1.001], np.float32)
    [found] = session.run(["probability"], {"score": score, **numbers, **given})
    np.testing.assert_allclose(found, [0.1998, 0.8, 0.8002], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_steepness_is_the_largest_rise(contrast_class, name):
    detector = contrast_class()
    detector.calibrator = calibrator = calibrator_of(name)
    low, high = (-4 + 1e-4, 4 - 1e-4) if name == "beta" else (-6, 6)
    at = np.linspace(low, high, 400_001)
    rise = (np.diff(calibrator.predict_proba(at)) / np.diff(at)).max()
    # A shift makes a bound of it, and the beta curve of logits has its own simple one.
    assert rise <= steepness(detector) * (1 + 1e-6)
    if name not in ("beta of logits", "shifted isotonic"):
        assert steepness(detector) == pytest.approx(rise, rel=1e-3)
    detector.calibrator = None
    assert steepness(detector) == 0.0
    detector.calibrator = RawScore()
    assert steepness(detector) == 1.0


@pytest.fixture(scope="module")
def isotonic(contrast_class, make_batch, tmp_path_factory):
    """A whole detector with isotonic calibration, a band and a pixel calibration, as a file."""
    detector = contrast_class()
    scores = detector(torch.from_numpy(make_batch(60, 32, 40, seed=1))).detach().numpy()
    labels = (np.arange(60) % 3 > 0).astype(int)
    order = np.argsort(scores + np.random.default_rng(0).normal(0, np.ptp(scores) / 6, 60))
    labels[order] = np.sort(labels)
    found = with_bootstrap_band(Isotonic().fit(scores, labels), scores, labels, draws=20)
    detector.calibrator = found.with_prior(0.05)
    maps = np.random.default_rng(0).normal(0.2, 0.05, (4, 16, 16))
    detector.pixel_calibrator = PixelPlatt().fit(maps, maps > 0.23)
    path = tmp_path_factory.mktemp("isotonic") / "isotonic.onnx"
    return detector, export_onnx(detector, path, input="float_nchw")


def test_another_engine_makes_the_same_of_it(isotonic, engines_agree):
    found = engines_agree(isotonic[1], [(32, 40), (48, 32)], (1, 3), atol=1e-4)
    assert "probability_map" in found.outputs


def test_a_whole_file_agrees_and_says_so(isotonic, make_images):
    detector, path = isotonic
    result = verify(detector, path, images=make_images(4, 32, 40, seed=5), threads=1)
    result.raise_if_failed()
    assert set(result.differences) == {
        "score", "probability", "entropy", "p_value", "verdict", "patch_scores", "anomaly_map",
            "probability_map",
    }  # fmt: skip
    assert result.tolerances["probability"] == pytest.approx(1e-5 * max(1, steepness(detector)))
    session = session_of(str(path))
    text = session.get_modelmeta().custom_metadata_map["robustad"]
    metadata = ArtefactMetadata.model_validate_json(text)
    assert metadata.calibration.model_dump() == detector.calibrator.to_dict()
    assert metadata.pixel_calibration.model_dump() == detector.pixel_calibrator.to_dict()
    assert json.loads(text)["calibration"]["method"] == "isotonic"
    names = {value.name for value in session.get_overridable_initializers()}
    assert {*ISOTONIC, "pixel_slope", "calibration_slope"} <= names


def test_the_runtime_gives_maps_and_intervals_too(isotonic, make_images):
    detector, path = isotonic
    images = make_images(5, 44, 60, seed=9)
    expected, found = detector.predict(images), load(path, threads=1).predict(images)
    np.testing.assert_allclose(found.probability, expected.probability, rtol=0, atol=1e-3)
    np.testing.assert_allclose(
        found.probability_interval, expected.probability_interval, rtol=0, atol=1e-3
    )
    for one, two in zip(found.probability_map, expected.probability_map, strict=True):
        assert one.shape == (44, 60)
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-4)
    assert [*found.to_records()[0]] == [*expected.to_records()[0]]


def test_the_map_of_probabilities_can_be_changed(isotonic, make_batch):
    _, path = isotonic
    session, x = session_of(str(path)), make_batch(2, 32, 40, seed=3)
    wanted = ["anomaly_map", "probability_map"]
    feeds = {"image": x, "pixel_slope": np.float32(5), "pixel_intercept": np.float32(-1)}
    anomaly_map, found = session.run(wanted, {k: np.asarray(v) for k, v in feeds.items()})
    expected = 1 / (1 + np.exp(1 - 5 * anomaly_map.astype(np.float64)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_another_detector_is_not_taken_for_this_one(isotonic):
    detector, path = isotonic
    before = detector.calibrator, detector.pixel_calibrator
    try:
        detector.calibrator = before[0].with_prior(0.5)
        detector.pixel_calibrator = before[1].with_prior(0.5)
        failures = " ".join(verify(detector, path, batch_sizes=[1], threads=1).failures)
    finally:
        detector.calibrator, detector.pixel_calibrator = before
    assert "metadata: calibration is" in failures
    assert "metadata: pixel_calibration is" in failures
    assert "probability_map differs by" in failures


def test_numbers_beyond_float32_are_refused(contrast_class):
    detector = contrast_class()
    scores = 1.0 + 1e-12 * np.arange(1000)
    detector.calibrator = Isotonic().fit(scores, np.arange(1000) >= 500)
    with pytest.raises(InputError, match=r"float32 cannot tell the knots .* apart"):
        calibration_inputs(detector)
    detector.calibrator = Beta(score_range=(0.0, 1e39)).fit([1.0, 1e38], [0, 1])
    with pytest.raises(InputError, match=r"calibrator: calibration_high 1e\+39 does not fit float"):
        calibration_inputs(detector)


def test_knots_that_float32_merges_keep_the_curve(contrast_class):
    detector = contrast_class()
    # A step between neighbours of float64: in float32 one knot, whose last value counts.
    scores = np.array([0.0, 0.5, 0.5 + 1e-12, 1.0])
    detector.calibrator = Isotonic().fit(scores, [0, 0, 1, 1])
    knots, pro, contra = (calibration_inputs(detector)[name] for name in ISOTONIC)
    assert knots.tolist() == [0.0, 0.5, 1.0]
    assert pro.tolist() == [0.0, 0.5, 0.5]  # halves, as without a shift both weights are 1/2
    assert contra.tolist() == [0.5, 0.0, 0.0]
