import json
from pathlib import Path

import numpy as np
import pytest
import torch

import robustad.certificates.draws as draws_module
from robustad.calibration import Platt
from robustad.certificates import Certification, SmoothedDetector, certify
from robustad.certificates.draws import looks
from robustad.certificates.result import certification_schema, write_certification_schema
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError, NotFittedError, StateError
from robustad.metrics import auroc

DOCS = Path(__file__).resolve().parents[2] / "docs"
RADII = (0.05, 0.1, 0.5)


@pytest.fixture(scope="session")
def chosen(samples):
    return samples(3, 3, seed=11)


@pytest.fixture(scope="session")
def found(detector, chosen, tmp_path_factory):
    return certify(
        detector, chosen, n=100, radii=RADII, alpha=0.01, attacks=["pgd3_l2"], attack_draws=4,
        dataset="toy", category="grey", store=tmp_path_factory.mktemp("store"),
    )  # fmt: skip


def test_figures_are_those_of_the_bounds(found, chosen):
    labels = np.array([one.label for one in chosen])
    ends = found.intervals()
    assert ends.lower.shape == (6, 3)
    assert [one.name for one in found.images] == [one.name for one in chosen]
    for place, point in enumerate(found.points):
        worst = np.where(labels == 1, ends.lower[:, place], ends.upper[:, place])
        if np.isfinite(worst).all():
            assert point.auroc == auroc(worst, labels)
            assert point.abstained == 0
    assert found.points[-1].abstained == 6  # 0.5 is out of reach of 100 copies at 0.1
    assert found.points[-1].auroc == 0.0
    assert found.reach == pytest.approx(0.1 * 1.70, abs=0.01)
    assert found.at(0.1) is found.points[1]
    assert found.clean_auroc == auroc([one.score for one in found.images], labels)
    aurocs = [point.auroc for point in found.points]
    assert aurocs == sorted(aurocs, reverse=True)
    assert found.confidence == pytest.approx(0.94)


def test_attacks_stay_inside_and_above(found):
    assert found.violations == 0
    before = found.clean_auroc
    for point in found.points:
        assert point.auroc <= point.attacked.auroc <= before
        before = point.attacked.auroc
        for certified, empirical in zip(point.rates, point.attacked.rates, strict=True):
            assert certified.fpr >= empirical.fpr
            assert certified.fnr >= empirical.fnr
        assert set(point.attacked.chosen) <= {"clean", "pgd3_l2"}
    scores = np.array([point.attacked.scores for point in found.points])
    sign = 1 - 2 * np.array([one.label for one in found.images])
    assert (np.diff(sign * scores, axis=0) >= 0).all()
    assert "pgd3_l2" in found.points[-1].attacked.chosen


def test_written_and_read_back(found, tmp_path):
    found.save(tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text()
    assert "Infinity" not in text
    assert json.loads(text)["images"][0]["upper"][2] is None
    assert Certification.load(tmp_path / "a.json") == found
    (tmp_path / "b.json").write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(StateError, match=r"b\.json: not a certification: schema_version"):
        Certification.load(tmp_path / "b.json")
    with pytest.raises(InputError, match="no such certification file"):
        Certification.load(tmp_path / "c.json")
    with pytest.raises(InputError, match=r"radius: expected one of \[0\.05, 0\.1, 0\.5\], got 3"):
        found.at(3.0)


def test_schema_file_is_up_to_date(tmp_path):
    write_certification_schema(tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_text() == certification_schema()
    assert (DOCS / "certification.schema.json").read_text() == certification_schema(), (
        "run robustad.certificates.result.write_certification_schema"
        "('docs/certification.schema.json')"
    )


def without_time(made):
    return made.model_copy(update={"seconds": 0.0})


def test_an_interrupted_run_goes_on_and_more_draws_cost_only_themselves(
    detector, chosen, tmp_path, monkeypatch
):
    monkeypatch.setattr(draws_module, "SEGMENT", 32)
    options = {"radii": RADII, "alpha": 0.05, "store": tmp_path}
    real, calls = AnomalyDINO.patch_scores, []

    def counted(self, x):
        calls.append(len(x))
        if sum(calls) > 150:
            raise KeyboardInterrupt
        return real(self, x)

    monkeypatch.setattr(AnomalyDINO, "patch_scores", counted)
    with pytest.raises(KeyboardInterrupt):
        certify(detector, chosen, n=64, **options)
    kept = len([*tmp_path.rglob("*.safetensors")])
    assert kept == 4
    calls.clear()
    monkeypatch.setattr(
        AnomalyDINO, "patch_scores", lambda self, x: calls.append(len(x)) or real(self, x)
    )
    first = certify(detector, chosen, n=64, **options)
    assert sum(calls) == 6 * 64 - 4 * 32 + 6  # and each image once without noise
    calls.clear()
    assert without_time(certify(detector, chosen, n=64, **options)) == without_time(first)
    assert sum(calls) == 6
    again = certify(detector, chosen, n=64, **{**options, "radii": [0.01], "alpha": 0.2})
    assert sum(calls) == 12
    assert [one.score for one in again.images] == [one.score for one in first.images]
    calls.clear()
    certify(detector, chosen, n=96, **options)
    assert sum(calls) == 6 * 32 + 6
    calls.clear()
    certify(detector, chosen, n=64, **options, resume=False)
    assert sum(calls) == 6 * 64 + 6
    other = certify(SmoothedDetector(detector.base, sigma=0.1, seed=1), chosen, n=64, **options)
    assert other.images[0].score != first.images[0].score
    plain = certify(detector, chosen, n=64, **{**options, "store": None}, batch_size=5)
    for one, two in zip(plain.images, first.images, strict=True):
        assert one.score == pytest.approx(two.score, abs=1e-6)


def test_levels(detector, chosen, tmp_path):
    options = {"n": 256, "radii": [0.1], "store": tmp_path}
    plain = certify(detector, chosen, alpha=0.06, **options)
    strict = certify(detector, chosen, alpha=0.01, **options)
    joint = certify(detector, chosen, alpha=0.06, simultaneous=True, **options)
    assert joint.intervals().upper.tolist() == strict.intervals().upper.tolist()
    assert joint.confidence == pytest.approx(0.94)
    assert plain.confidence == pytest.approx(1 - 6 * 0.06)
    both = certify(detector, chosen, alpha=0.02, sides="two", **options)
    assert both.intervals().lower.tolist() == strict.intervals().lower.tolist()
    few = certify(detector, chosen, alpha=0.01, test_draws=9, **options)
    assert (few.intervals().upper >= strict.intervals().upper).all()
    assert few.test_draws == 9


def test_early_stops_are_sound_and_save_draws(detector, chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(draws_module, "SEGMENT", 32)
    assert looks(128) == [32, 64, 128]
    options = {"n": 128, "radii": [0.05], "alpha": 0.05, "store": tmp_path}
    whole = certify(detector, chosen, **options)
    assert whole.threshold_source == "best G-mean of these images"
    scores = [one.score for one in whole.images]
    between = (max(scores[:3]) + min(scores[3:])) / 2
    early = certify(detector, chosen, thresholds=[between], early=True, **options)
    drawn = [one.draws for one in early.images]
    assert set(drawn) <= {32, 64, 128}
    assert sum(drawn) < 6 * 128
    for stopped in early.images:
        if stopped.draws < 128:
            low, high = stopped.lower[0], stopped.upper[0]
            right = high < between if stopped.label == 0 else low >= between
            assert right
    # a look takes its share of the level
    last = [one for one in early.images if one.draws == 128]
    for one in last:
        same = next(image for image in whole.images if image.name == one.name)
        assert one.lower[0] <= same.lower[0]
        assert one.upper[0] >= same.upper[0]
    lost = certify(detector, chosen, thresholds=[min(scores) - 1], early=True, **options)
    assert all(one.draws == 32 for one in lost.images)  # normal ones wrong already, others right
    clean = {**options, "radii": [0.0]}
    still = certify(
        detector, chosen, thresholds=[between], early=True, attacks=["pgd1_l2"], **clean
    )
    assert still.violations == 0
    assert still.points[0].attacked.chosen == ["clean"] * 6
    with pytest.raises(InputError, match="early: expected thresholds with it, got none"):
        certify(detector, chosen, early=True, **options)


def test_thresholds_of_a_calibrated_detector(detector, chosen, tmp_path):
    state = {"method": "platt", "slope": 10.0, "intercept": -4.0, "n_normal": 1, "n_anomalous": 1}
    detector.calibrator = Platt.from_dict({**state, "prevalence": 0.5})
    try:
        made = certify(detector, chosen, n=32, radii=[0.01], alpha=0.1, store=tmp_path)
    finally:
        detector.calibrator = None
    assert made.thresholds == pytest.approx([0.4])
    assert made.threshold_source == "calibrator"


def test_a_plain_detector_and_a_callable_are_smoothed(detector, chosen):
    made = certify(detector.base, chosen, sigma=0.1, n=32, radii=[0.01], alpha=0.1)
    expected = certify(detector, chosen, n=32, radii=[0.01], alpha=0.1)
    assert made.images == expected.images
    assert made.model == "anomaly_dino"

    def brightness(x):
        return x.amax(dim=(1, 2, 3))

    bright = certify(brightness, chosen, sigma=0.01, n=32, radii=[0.001], alpha=0.1, image_size=32)
    assert bright.points[0].auroc == 1.0
    assert bright.model == "brightness"


def test_an_exported_file_is_certified_by_its_scores(detector, chosen, tmp_path):
    from robustad.export import export_onnx

    path = export_onnx(
        detector.base, tmp_path / "base.onnx", input="float_nchw", dynamic_size=False
    )
    made = certify(path, chosen, sigma=0.1, n=32, radii=[0.01], alpha=0.1)
    expected = certify(detector.base, chosen, sigma=0.1, n=32, radii=[0.01], alpha=0.1)
    for one, two in zip(made.images, expected.images, strict=True):
        assert one.score == pytest.approx(two.score, abs=1e-4)
    assert made.model == "base.onnx"
    black = certify(
        path,
        chosen,
        sigma=0.1,
        n=32,
        radii=[0.1],
        alpha=0.1,
        attacks=["square5_l2"],
        attack_draws=2,
    )
    assert black.violations == 0


def test_angles_are_certified_beside(detector, chosen):
    made = certify(
        detector, chosen, n=32, radii=[0.01], alpha=0.1, angles=[1.0], angle_attacks=["fgsm"]
    )
    assert made.features.points[0].degrees == 1.0
    assert made.features.measured[0].attack == "fgsm"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1}, r"n: expected at least 10 copies for a level of 0\.001 \(one-sided\), got 1"),
        ({"alpha": 0.0}, "alpha: expected a chance"),
        ({"radii": [-1.0]}, "radii: expected finite l2 radii >= 0, got -1"),
        ({"sigma": 0.2}, r"sigma: the smoothed detector has its own, 0\.1, got 0\.2"),
        ({"seed": 3}, "seed: the smoothed detector has its own, 0, got 3"),
        ({"attacks": ["pgd10"]}, "attacks: expected l2 attacks, 'pgd10' is one in linf"),
        ({"attacks": ["nonsense"]}, "attack: expected one of"),
        ({"attack_draws": 0}, "attack_draws: expected >= 1, got 0"),
        ({"thresholds": []}, "thresholds: expected at least one, got none"),
        ({"thresholds": [float("nan")]}, "thresholds: expected finite scores, got nan"),
        ({"sides": "three"}, "sides: expected 'one' or 'two'"),
        ({"test_draws": 0}, "test_draws: expected >= 1"),
    ],
)
def test_bad_options(detector, chosen, options, message):
    with pytest.raises(InputError, match=message):
        certify(
            detector,
            chosen,
            **{"n": 32, "alpha": 0.1, **options} if "n" not in options else options,
        )


def test_bad_models_and_samples(detector, chosen, linear):
    with pytest.raises(InputError, match="got 3 normal and 0 anomalous"):
        certify(detector, chosen[:3])
    broken = linear()
    broken.weight[0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="score that is not finite"):
        certify(broken, chosen, n=32, alpha=0.1)
    with pytest.raises(NotFittedError, match="no memory bank"):
        certify(AnomalyDINO("filters", image_size=32), chosen)
    training = linear()
    training.training = True
    with pytest.raises(InputError, match="model: is in training mode"):
        certify(training, chosen)
    with pytest.raises(InputError, match="angles: expected a nearest-neighbour detector"):
        certify(linear(), chosen, n=16, alpha=0.1, radii=[0.01], angles=[1.0])
    halved = SmoothedDetector(detector.base, sigma=0.1, denoiser=lambda x: x / 2)
    with pytest.raises(InputError, match="denoiser: the smoothed detector has its own"):
        certify(halved, chosen, denoiser=lambda x: x)
