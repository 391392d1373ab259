import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from robustad.attacks import LinearProbe, attack
from robustad.calibration import Platt, RawScore, calibrate
from robustad.detectors import AnomalyDINO
from robustad.errors import DataError, InputError, StateError
from robustad.evaluation import Evaluation, evaluate
from robustad.evaluation.batches import batches
from robustad.metrics import ece_positive, f1_max, flag_auroc, gmean_max, nll
from robustad.verdict import Policy, binary_entropy

EPS = 8 / 255


def pooled_red(samples):
    """Patch scores (n, 16), by hand."""
    red = np.stack([s.image[..., 0] for s in samples]) / 255.0
    return red.reshape(-1, 4, 4, 4, 4).mean(axis=(2, 4)).reshape(-1, 16)


def top_two(patches):
    return np.sort(patches, axis=1)[:, -2:].mean(axis=1)


def labels_of(samples):
    return np.array([sample.label for sample in samples])


def without_times(evaluation):
    document = evaluation.model_dump()
    for condition in document["conditions"].values():
        condition.pop("seconds")
    return document


def test_the_detectors_own_held_out_scores_are_used():
    from robustad.conformal import ConformalScores
    from robustad.evaluation.fixed import own

    scores = ConformalScores([0.1, 0.2, 0.3])
    made = SimpleNamespace(calibrator=None, conformal=scores, policy=scores.policy(fpr=0.3))
    fixed = own(made)
    assert fixed.conformal is scores
    assert fixed.typical == pytest.approx(0.2)
    assert fixed.threshold == np.nextafter(np.float32(0.3), np.float32(1))
    made.policy = Policy()
    assert own(made).threshold is None


def test_the_clean_pass_matches_a_computation_by_hand(redness, samples):
    found = evaluate(redness(), samples(0, 12), attacks=(), dataset="set", category="red")
    data, labels = samples(0, 12), labels_of(samples(0, 12))
    patches = pooled_red(data)
    score = top_two(patches)
    assert np.allclose(found.scores(), score, atol=1e-6)
    metrics = found.clean.metrics
    assert metrics.auroc == pytest.approx(roc_auc_score(labels, score))
    assert metrics.ap == pytest.approx(average_precision_score(labels, score))
    assert metrics.f1_max == f1_max(score, labels).value
    assert metrics.gmean_max == gmean_max(score, labels).value
    assert 0.5 < metrics.auroc < 1.0
    maps = torch.nn.functional.interpolate(
        torch.from_numpy(patches.reshape(-1, 1, 4, 4)), (16, 16), mode="bilinear"
    ).numpy()[:, 0]
    truth = np.stack([s.read_mask() for s in data])
    assert metrics.pixel_auroc == pytest.approx(
        roc_auc_score(truth.ravel(), maps.ravel()), abs=1e-3
    )
    assert metrics.pixel_ap == pytest.approx(
        average_precision_score(truth.ravel(), maps.ravel()), abs=1e-3
    )
    assert 0 < metrics.aupro <= 1
    assert (found.method, found.dataset, found.category) == ("redness", "set", "red")
    assert found.names == [s.name for s in data]
    assert found.defects == [s.defect for s in data]
    assert found.labels == labels.tolist()
    assert list(found.conditions) == ["clean"]
    assert (found.attacks, found.calibration) == ([], None)
    assert found.clean.probability is found.clean.entropy is found.clean.metrics.fpr is None
    assert found.clean.raw_entropy_mean == pytest.approx(binary_entropy(score).mean(), abs=1e-6)
    assert found.clean.distance == 0.0


def test_attacks_on_a_linear_score_have_a_known_answer(redness, samples):
    data = samples(0, 12)
    found = evaluate(redness(), data, attacks=("fgsm", "pgd10"))
    labels = labels_of(data)
    images = np.stack([s.image for s in data]) / 255.0
    # FGSM moves the two patches that count by eps; nothing is cut off by [0, 1] here
    order = np.argsort(pooled_red(data), axis=1)[:, -2:]
    moved = pooled_red(data)
    for row, (columns, label) in enumerate(zip(order, labels, strict=True)):
        moved[row, columns] += EPS if label == 0 else -EPS
    assert images[..., 0].min() > EPS
    assert np.allclose(found.scores("fgsm"), top_two(moved), atol=1e-6)
    assert found.conditions["fgsm"].distance == pytest.approx(EPS, abs=1e-6)
    assert found.eps == EPS
    assert list(found.conditions) == ["clean", "fgsm", "pgd10", "worst_case"]
    assert found.attacks == ["fgsm", "pgd10"]


def test_attacks_are_those_of_attack(redness, samples):
    data = samples(0, 8)
    detector = redness()
    found = evaluate(detector, data, attacks=("pgd10",), eps=0.02, batch_size=3)
    x = detector.prepare([s.image for s in data])
    label = torch.from_numpy(labels_of(data))
    expected = attack(detector, x, label=label, attack="pgd10", eps=0.02)
    assert np.allclose(found.scores("pgd10"), expected.score, atol=1e-6)


def test_attacks_on_patches_take_the_masks_of_the_samples(redness, samples):
    data = samples(0, 8)
    detector = redness()
    found = evaluate(detector, data, attacks=("pgd3_flip", "pgd3_l2_bce"), eps=0.02, batch_size=3)
    [batch] = batches(detector, data, len(data))
    for name in found.attacks:
        expected = attack(
            detector, batch.x, label=batch.label, mask=batch.mask, attack=name, eps=0.02
        )
        assert np.allclose(found.scores(name), expected.score, atol=1e-6)
        assert found.conditions[name].distance == pytest.approx(0.02, abs=1e-6)
        assert not np.array_equal(found.scores(name), found.scores())


def test_the_worst_case_is_image_by_image(redness, samples):
    data = samples(0, 12)
    found = evaluate(redness(), data, attacks=("fgsm", "pgd10"))
    every = np.stack([found.scores(name) for name in ("clean", "fgsm", "pgd10")])
    expected = np.where(labels_of(data) == 0, every.max(axis=0), every.min(axis=0))
    assert np.array_equal(found.scores("worst_case"), expected)
    worst = found.conditions["worst_case"].metrics
    for name in ("clean", "fgsm", "pgd10"):
        assert worst.auroc <= found.conditions[name].metrics.auroc
        assert worst.ap <= found.conditions[name].metrics.ap + 1e-12
    assert worst.auroc < found.clean.metrics.auroc
    assert worst.auroc == pytest.approx(roc_auc_score(labels_of(data), expected))
    for name in ("clean", "fgsm", "pgd10"):
        assert worst.pixel_auroc <= found.conditions[name].metrics.pixel_auroc
    assert worst.auroc_interval[0] <= worst.auroc <= worst.auroc_interval[1]
    assert found.conditions["worst_case"].distance == pytest.approx(EPS, abs=1e-6)


def test_an_attack_that_helps_does_not_enter_the_worst_case(redness, samples, monkeypatch):
    """A clean score is the worst where the attack made the detector's work easier."""
    data = samples(0, 8)
    real = attack

    def backwards(detector, x, *, label, **options):
        return real(detector, x, label=1 - label, **options)

    monkeypatch.setattr("robustad.evaluation.work.attack", backwards)
    found = evaluate(redness(), data, attacks=("fgsm",))
    assert found.conditions["fgsm"].metrics.auroc > found.clean.metrics.auroc
    assert np.array_equal(found.scores("worst_case"), found.scores("clean"))


def test_calibration_comes_from_the_held_out_images_alone(redness, samples):
    held_out, data = samples(100, 12), samples(0, 12)
    found = evaluate(redness(), data, calibration=held_out, attacks=("fgsm",))
    made = redness()
    calibrate(made, top_two(pooled_red(held_out)).astype(np.float32), labels_of(held_out))
    score, labels = found.scores(), labels_of(data)
    probability = made.calibrator.predict_proba(score)
    report = found.calibration
    assert report.names == [s.name for s in held_out]
    for key, value in made.calibrator.to_dict().items():
        same = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
        assert report.calibrator[key] == same
    assert report.score_threshold == pytest.approx(made.calibrator.score_at(0.5), rel=1e-4)
    assert report.entropy_threshold == pytest.approx(made.policy.entropy_threshold, rel=1e-4)
    assert np.allclose(found.clean.probability, probability, atol=1e-4)
    assert report.after.nll == pytest.approx(nll(probability, labels), abs=1e-4)
    assert report.before.ece_positive == pytest.approx(ece_positive(score, labels), abs=1e-6)
    for condition in found.conditions.values():
        assert np.allclose(condition.entropy, binary_entropy(np.array(condition.probability)))
        p, metrics = np.array(condition.probability), condition.metrics
        assert metrics.fpr == pytest.approx((p[labels == 0] >= 0.5).mean())
        assert metrics.fnr == pytest.approx((p[labels == 1] < 0.5).mean())
        flagged = np.array(condition.entropy) > report.entropy_threshold
        assert condition.flag_rate == pytest.approx(flagged.mean())
        assert condition.entropy_mean == pytest.approx(np.mean(condition.entropy))
    fgsm = found.conditions["fgsm"]
    assert fgsm.flag_auroc == pytest.approx(
        flag_auroc(np.array(found.clean.entropy), np.array(fgsm.entropy))
    )
    assert found.clean.flag_auroc is None
    other = evaluate(redness(), samples(50, 12), calibration=held_out, attacks=())
    assert other.calibration.calibrator == report.calibrator


def test_the_detectors_own_calibrator_is_used_without_held_out_images(redness, samples):
    data, made = samples(0, 12), redness()
    calibrate(made, [0.1, 0.2, 0.3, 0.5], [0, 0, 1, 1], threshold=0.4)
    found = evaluate(made, data, attacks=())
    assert found.calibration.names == []
    assert found.calibration.calibrator == made.calibrator.to_dict()
    assert found.calibration.score_threshold == made.calibrator.score_at(0.4)
    assert np.allclose(found.clean.probability, made.calibrator.predict_proba(found.scores()))
    raw = redness()
    raw.calibrator, raw.policy = RawScore(), Policy(threshold=0.2)
    found = evaluate(raw, data, attacks=())
    assert found.calibration.score_threshold == 0.2
    assert found.calibration.before == found.calibration.after
    assert found.clean.flag_rate is None


def test_the_detector_is_not_changed(redness, samples):
    made = redness()
    made.calibrator, made.policy = Platt().fit([0.1, 0.2, 0.4], [0, 0, 1]), Policy(threshold=0.3)
    state, calibrator = copy.deepcopy(made.state_dict()), made.calibrator
    evaluate(made, samples(0), calibration=samples(100), attacks=("fgsm_probe", "pgd10"))
    assert made.calibrator is calibrator
    assert made.policy == Policy(threshold=0.3)
    assert not made.training
    assert all(torch.equal(made.state_dict()[key], value) for key, value in state.items())


def test_the_probe_is_fitted_on_held_out_images_with_masks(redness, samples, sample):
    held_out = [*samples(100), sample(200, 1, mask=False)]
    data = samples(0)
    found = evaluate(redness(), data, calibration=held_out, attacks=("fgsm_probe",))
    detector = redness()
    probe = LinearProbe.fit(detector, [(b.x, b.mask) for b in batches(detector, samples(100), 8)])
    [batch] = batches(detector, data, 8)
    expected = attack(
        detector, batch.x, label=batch.label, mask=batch.mask, attack="fgsm_probe", probe=probe
    )
    assert np.allclose(found.scores("fgsm_probe"), expected.score, atol=1e-5)
    assert not np.allclose(found.scores("fgsm_probe"), found.scores())


def test_without_masks_there_are_no_pixel_metrics(redness, samples):
    found = evaluate(redness(), samples(0, mask=False), attacks=("fgsm",))
    for condition in found.conditions.values():
        assert condition.metrics.pixel_auroc is condition.metrics.aupro is None
    found = evaluate(redness(), samples(0), attacks=(), pixel=False)
    assert found.clean.metrics.pixel_auroc is None


def test_images_without_a_mask_are_left_out_of_pixel_metrics(redness, samples, sample):
    some = samples(0)
    found = evaluate(redness(), [*some, sample(90, 1, mask=False)], attacks=())
    alone = evaluate(redness(), some, attacks=())
    assert found.clean.metrics.pixel_auroc == alone.clean.metrics.pixel_auroc
    assert found.clean.metrics.aupro == alone.clean.metrics.aupro
    assert len(found.scores()) == len(some) + 1


def test_masks_that_vanish_in_resizing_leave_no_pixel_metrics(redness, samples):
    data = samples(0, size=64)
    for item in data:
        if item.mask is not None:
            item.mask[:] = False
            item.mask[0, 0] = True  # not among the pixels that nearest neighbour keeps
    found = evaluate(redness(), data, attacks=())
    assert found.clean.metrics.pixel_auroc is None
    assert found.clean.metrics.auroc > 0.5


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_repeats_and_batch_sizes_agree(redness, samples, batch_size):
    arguments = {"calibration": samples(100), "attacks": ("fgsm_probe", "fgsm", "pgd10")}
    first = evaluate(redness(), samples(0), batch_size=batch_size, **arguments)
    again = evaluate(redness(), samples(0), batch_size=batch_size, **arguments)
    assert without_times(first) == without_times(again)
    other = evaluate(redness(), samples(0), batch_size=8, **arguments)
    for name in other.conditions:
        assert np.allclose(first.scores(name), other.scores(name), atol=1e-5)


def test_images_of_several_sizes(redness, samples, sample):
    data = [*samples(0), sample(50, 0, size=32), sample(51, 1, size=32)]
    found = evaluate(redness(), data, attacks=("fgsm",))
    assert found.names[-1] == "bad/051"
    assert len(found.scores("fgsm")) == 10


def test_a_real_detector_end_to_end(samples):
    rng = np.random.default_rng(0)
    detector = AnomalyDINO("filters", image_size=16).fit(
        rng.integers(20, 60, (2, 16, 16, 3), np.uint8)
    )
    found = evaluate(detector, samples(0), calibration=samples(100), attacks=("fgsm", "pgd10"))
    assert found.method == "anomaly_dino"
    assert found.settings["detector"]["image_size"] == 16
    assert found.conditions["worst_case"].metrics.auroc <= found.clean.metrics.auroc


def test_json_round_trip(redness, samples, tmp_path):
    found = evaluate(redness(), samples(0), calibration=samples(100), attacks=("fgsm",))
    path = tmp_path / "new" / "evaluation.json"
    found.save(path)
    assert Evaluation.load(path) == found
    document = json.loads(path.read_text())
    assert document["format"] == 2
    assert [p.name for p in path.parent.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=9), "format: "),
        (lambda d: d.pop("labels"), "labels: Field required"),
        (lambda d: d.update(more=1), "more: Extra inputs"),
        (lambda d: d["conditions"]["clean"].update(score="high"), "conditions.clean.score: "),
    ],
)
def test_tampered_files(redness, samples, tmp_path, change, message):
    path = tmp_path / "evaluation.json"
    evaluate(redness(), samples(0), attacks=()).save(path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(StateError, match=rf"evaluation\.json: not an evaluation: {message}"):
        Evaluation.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"evaluation\.json: not an evaluation"):
        Evaluation.load(path)
    with pytest.raises(InputError, match=r"none\.json: no such evaluation file"):
        Evaluation.load(tmp_path / "none.json")


def test_bad_samples(redness, samples):
    data = samples(0)
    with pytest.raises(InputError, match=r"calibration: .* but 2 are in both, first 'bad/004'"):
        evaluate(redness(), data, calibration=[*samples(100), data[4], data[5]])
    for part, message in ((data[:4], "got 4 normal and 0 anom"), (data[4:], "got 0 normal and 4")):
        with pytest.raises(InputError, match=f"samples: expected both .* {message}"):
            evaluate(redness(), part, attacks=())
    with pytest.raises(InputError, match="got 0 normal and 0 anomalous"):
        evaluate(redness(), [], attacks=())
    with pytest.raises(InputError, match="labels: expected both"):
        evaluate(redness(), data, calibration=samples(100)[:4], attacks=())


def test_bad_options(redness, samples):
    data = samples(0)
    with pytest.raises(InputError, match=r"attack: expected one of .* got 'nightshade'"):
        evaluate(redness(), data, attacks=("fgsm", "nightshade"))
    with pytest.raises(InputError, match="'fgsm_probe' fits its probe on calibration images"):
        evaluate(redness(), data, attacks=("fgsm_probe",))
    with pytest.raises(InputError, match="eps: expected a fraction"):
        evaluate(redness(), data, attacks=("fgsm",), eps=8)
    with pytest.raises(InputError, match="batch_size: expected >= 1, got 0"):
        evaluate(redness(), data, attacks=(), batch_size=0)
    with pytest.raises(InputError, match=r"probe: expected both normal and anomalous patches"):
        evaluate(redness(), data, calibration=samples(100, mask=False), attacks=("fgsm_probe",))


def test_detectors_without_features_cannot_be_probed(redness, samples):
    class Closed(redness):
        patch_features = None

        def patch_scores(self, x):
            return torch.nn.functional.avg_pool2d(x, 4)[:, 0].flatten(1)

        def __getattribute__(self, name):
            if name == "patch_features":
                raise AttributeError(name)
            return super().__getattribute__(name)

    with pytest.raises(InputError, match="needs patch_features, which Closed does not have"):
        evaluate(Closed(), samples(0), calibration=samples(100), attacks=("fgsm_probe",))


def test_files_that_cannot_be_read_are_named(redness, samples, tmp_path):
    data = samples(0)
    object.__setattr__(data[2], "image", tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"gone\.png: no such image"):
        evaluate(redness(), data, attacks=())
