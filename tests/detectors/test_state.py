import json
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import robustad
from robustad.backbones import create
from robustad.calibration import PixelPlatt, Platt, RawScore, calibrate
from robustad.detectors import AnomalyDINO, load
from robustad.detectors.state import HEADER, DetectorState
from robustad.errors import InputError, NotFittedError, StateError
from robustad.verdict import Policy


def pictures(count=2, seed=0, size=64):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def filters(**options):
    return AnomalyDINO("filters", image_size=64, **options).fit(pictures())


@pytest.mark.filterwarnings("ignore:(Isotonic|Temperature)")
@pytest.mark.parametrize("method", ["platt", "temperature", "beta", "isotonic"])
def test_every_calibration_travels_along(tmp_path, method):
    detector = filters()
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    scores = rng.uniform(0.1, 0.5, 60) + 0.4 * labels
    calibrate(detector, scores, labels, method=method, bootstrap=20, defect_rate=0.1)
    maps = rng.normal(0.0, 1.0, (2, 8, 8))
    detector.pixel_calibrator = PixelPlatt().fit(maps, maps > 0.5)
    path = tmp_path / "detector.safetensors"
    detector.save(path)
    again = load(path)
    assert again.calibrator.to_dict() == detector.calibrator.to_dict()
    assert again.pixel_calibrator.to_dict() == detector.pixel_calibrator.to_dict()
    assert_same(detector, again)
    one, two = detector.predict(pictures(2, seed=9)), again.predict(pictures(2, seed=9))
    np.testing.assert_array_equal(one.probability_map, two.probability_map)
    np.testing.assert_array_equal(one.probability_interval, two.probability_interval)
    low, high = one.probability_interval
    assert ((low <= one.probability) & (one.probability <= high)).all()
    assert one.probability_map[0].shape == one.anomaly_map[0].shape
    assert (one.probability_map[0].argmax(), one.probability_map[0].dtype) == (
        one.anomaly_map[0].argmax(),
        np.float32,
    )


def test_a_map_of_probabilities_as_a_tensor(tmp_path):
    detector = filters()
    maps = torch.rand(2, 4, 5)
    assert detector.probability_map(maps).isnan().all()
    values = np.random.default_rng(0).normal(0.5, 0.3, (2, 8, 8))
    detector.pixel_calibrator = PixelPlatt().fit(values, values > 0.6)
    expected = detector.pixel_calibrator.predict_proba(maps.numpy())
    np.testing.assert_allclose(detector.probability_map(maps).numpy(), expected, atol=1e-6)
    prediction = detector.predict(pictures())
    assert prediction.probability_interval is None
    assert set(prediction.to_records()[0]) == {
        "name", "score", "probability", "entropy", "p_value", "verdict",
    }  # fmt: skip
    detector.fit(pictures(seed=3))
    assert detector.pixel_calibrator is None
    assert detector.predict(pictures()).probability_map is None


def test_files_without_a_pixel_calibration_are_read(saved):
    header = header_of(saved)
    assert "pixel_calibration" not in header  # so that older versions can read it
    assert load(saved).pixel_calibrator is None
    header["pixel_calibration"] = {"method": "pixel_platt", "slope": "steep"}
    rewrite(saved, header)
    with pytest.raises(StateError, match=r"damaged or of another version: pixel calibration: "):
        load(saved)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "detector.safetensors"
    filters().save(path)
    return path


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[HEADER])


def rewrite(path, header=None, tensors=None, metadata=None):
    """Save `path` again with another header or other tensors."""
    if metadata is None:
        metadata = {HEADER: json.dumps(header_of(path) if header is None else header)}
    save_file(load_file(path) if tensors is None else tensors, path, metadata=metadata)


def assert_same(first, second, size=64):
    images = pictures(3, seed=9, size=size)
    one, two = first.predict(images), second.predict(images)
    assert np.array_equal(one.score, two.score)
    assert np.array_equal(one.probability, two.probability, equal_nan=True)
    assert one.verdict == two.verdict
    for a, b in zip(one.anomaly_map, two.anomaly_map, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"whiten": False, "k": 2, "top_fraction": 3, "map_sigma": 0.0},
        {"mask": True, "mask_threshold": 0.7, "mask_unit": "std", "rotations": 4},
        {"coreset": 50, "square": True, "top_fraction": 1.0},
        {"coreset": 0.5},
    ],
)
def test_filters_round_trip(tmp_path, options):
    made = filters(**options)
    made.save(tmp_path / "new" / "detector.safetensors")
    again = load(tmp_path / "new" / "detector.safetensors")
    assert again.config() == made.config()
    assert type(again.top_fraction) is type(made.top_fraction)
    assert not again.training
    assert_same(made, again)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"layers": (2, 3)}),
        ("resnet18", {"layers": (1,)}),
        ("vit_tiny_patch16_224", {}),
    ],
)
def test_backbone_weights_travel_along(tmp_path, name, options):
    made = AnomalyDINO(create(name, "random", **options), image_size=64).fit(pictures())
    made.save(tmp_path / "d.safetensors")
    torch.manual_seed(1)  # other random weights, were they not in the file
    again = load(tmp_path / "d.safetensors")
    assert again.config().backbone.name == name
    assert_same(made, again)


def test_calibrator_and_policy_are_kept(tmp_path):
    made = filters()
    calibrate(made, [0.1, 0.2, 0.3, 0.5, 0.4, 0.6], [0, 0, 0, 1, 1, 1], threshold=0.3)
    made.save(tmp_path / "d.safetensors")
    again = robustad.load(tmp_path / "d.safetensors")
    assert again.policy == made.policy
    assert again.policy.threshold == 0.3
    assert isinstance(again.calibrator, Platt)
    assert_same(made, again)
    made.calibrator, made.policy = RawScore(), Policy(entropy_threshold=0.25)
    made.save(tmp_path / "d.safetensors")  # over the old one
    again = load(tmp_path / "d.safetensors")
    assert isinstance(again.calibrator, RawScore)
    assert again.policy == made.policy


def test_files_without_held_out_scores_read_as_older_versions_wrote_them(saved):
    assert set(header_of(saved)) == {"format", "method", "config", "calibration", "policy"}
    assert header_of(saved)["policy"] == {"threshold": 0.5, "entropy_threshold": None}


def test_a_file_is_safetensors_with_a_json_header(saved):
    start = saved.read_bytes()
    (length,) = struct.unpack("<Q", start[:8])
    document = json.loads(start[8 : 8 + length])
    assert set(document) == {"__metadata__", "bank", "centre", "whitening"}
    state = DetectorState.model_validate_json(document["__metadata__"][HEADER])
    assert (state.format, state.method, state.calibration) == (1, "anomaly_dino", None)
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(start)


def test_a_failed_save_leaves_the_old_file_and_no_other(saved, monkeypatch):
    before = saved.read_bytes()

    def broken(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("robustad.detectors.state.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        filters().save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_where_it_cannot_be_saved(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: expected a file name to write to"):
        filters().save(tmp_path / "folder")
    with pytest.raises(NotFittedError, match="no memory bank to save"):
        AnomalyDINO("filters", image_size=64).save(tmp_path / "d.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_missing_files(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(InputError, match=f"{path.name}: no such detector file"):
            load(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StateError, match=r"detector\.safetensors: not a readable safetensors file"):
        load(saved)


def test_a_pickle_is_refused_and_not_run(saved):
    torch.save({"bank": torch.zeros(2, 2)}, saved)
    with pytest.raises(StateError, match="not a readable safetensors file"):
        load(saved)


def test_a_foreign_safetensors_file(saved):
    for metadata in ({}, {"format": "pt"}):
        rewrite(saved, metadata=metadata)
        with pytest.raises(StateError, match="a safetensors file, but not a detector saved by"):
            load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(format=2), "its header is not what this version saves"),
        (lambda h: h.update(extra=1), "its header is not what this version saves"),
        (lambda h: h.pop("policy"), "its header is not what this version saves"),
        (lambda h: h.update(method="patchcore"), r"method 'patchcore' is unknown, .*anomaly_dino"),
        (lambda h: h["config"].update(k=0), "damaged or of another version: .*k"),
        (lambda h: h["config"].update(k=10**6), "damaged or of another version: bank: expected"),
        (lambda h: h["config"].update(surprise=1), "damaged or of another version: .*surprise"),
        (lambda h: h["config"].pop("mask"), "damaged or of another version: .*mask"),
        (lambda h: h["config"].update(top_fraction=-1), "damaged .*: top_fraction: expected"),
        (lambda h: h["config"].update(image_size=3), "damaged .*: image_size: expected"),
        (lambda h: h["config"].update(backbone={"name": "no_such_net"}), "damaged .*no_such_net"),
        (
            lambda h: h["config"].update(backbone={"name": "resnet18"}),
            "weights do not fit resnet18",
        ),
        (lambda h: h.update(calibration={"method": "voodoo"}), "damaged .*got 'voodoo'"),
        (lambda h: h.update(calibration={"method": "platt"}), "damaged or of another version"),
        (lambda h: h.update(policy={"threshold": 7, "entropy_threshold": None}), "threshold: exp"),
        (lambda h: h.update(policy={"limit": 7}), "policy: expected threshold, .* got 'limit'"),
        (lambda h: h.update(conformal={"normal": []}), "damaged .*: conformal: expected"),
        (lambda h: h.update(pixel_threshold={"value": 1}), "damaged .*: risk control: damaged"),
    ],
)
def test_tampered_headers(saved, change, message):
    header = header_of(saved)
    change(header)
    rewrite(saved, header)
    with pytest.raises(StateError, match=rf"detector\.safetensors: .*{message}"):
        load(saved)


def test_a_header_that_is_no_json(saved):
    rewrite(saved, metadata={HEADER: "{"})
    with pytest.raises(StateError, match="its header is not what this version saves"):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bank"), "tensor 'bank' is missing"),
        (lambda t: t.pop("whitening"), "tensor 'whitening' is missing"),
        (
            lambda t: t.update(bank=torch.zeros(5, 9)),
            r"bank: expected float32 \(5, 43\) .*\(5, 9\)",
        ),
        (lambda t: t.update(bank=torch.zeros(43)), r"bank: expected float32 \(43, 43\)"),
        (lambda t: t.update(bank=torch.tensor(1.0)), r"bank: expected float32 \(1, 43\)"),
        (lambda t: t.update(bank=t["bank"].long()), "bank: expected float32"),
        (lambda t: t.update(bank=torch.zeros(0, 43)), r"bank: expected float32 \(1, 43\)"),
        (lambda t: t.update(centre=torch.zeros(3)), r"centre: expected float32 \(42,\)"),
        (lambda t: t.update(whitening=torch.eye(43)), r"whitening: expected float32 \(42, 42\)"),
        (lambda t: t.update({"backbone.x": torch.eye(2)}), "backbone weights do not fit filters"),
    ],
)
def test_tampered_tensors(saved, change, message):
    tensors = load_file(saved)
    change(tensors)
    rewrite(saved, tensors=tensors)
    with pytest.raises(StateError, match=f"damaged or of another version: .*{message}"):
        load(saved)


def test_an_exported_file_is_told_from_a_saved_one(tmp_path):
    path = tmp_path / "part.onnx"
    path.write_bytes(b"anything")
    with pytest.raises(InputError, match=r"part\.onnx: .* got an exported one; robustad\.runtime"):
        robustad.load(path)
