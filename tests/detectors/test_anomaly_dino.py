from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from robustad.backbones import BackboneConfig, FilterBank
from robustad.calibration import RawScore
from robustad.data import folder, shots
from robustad.detectors import AnomalyDINO, Detector, PatchScorer
from robustad.detectors.bank import rotations
from robustad.errors import InputError, NotFittedError
from robustad.metrics import auroc
from robustad.verdict import Policy, Verdict

SHARED = Path(__file__).parents[2] / ".." / "shared"
RESNET = SHARED / "weights" / "resnet18_layers1to3.safetensors"
HAZELNUT = SHARED / "data" / "hazelnut_toy" / "hazelnut"


def pictures(count=3, height=64, width=64, seed=0):
    """Smooth noise, as uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    size = (width, height)
    return [np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BICUBIC)) for c in coarse]


def detector(images=None, **options):
    return AnomalyDINO("filters", image_size=64, **options).fit(images or pictures(2))


def brute_force(made, references, x, k, count=1):
    """Mean cosine distance to the k nearest patches of all rotated references."""
    with torch.no_grad():
        bank = torch.cat(
            [made.patch_features(t[None])[0] for t in rotations(made.prepare(references), count)]
        )
        queries = made.patch_features(x)
    found = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(bank.numpy())
    distances, _ = found.kneighbors(queries.flatten(0, 1).numpy())
    return distances.mean(axis=1).reshape(queries.shape[:2])


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize(("k", "count"), [(1, 1), (3, 1), (1, 8), (3, 2)])
def test_patch_scores_match_brute_force(k, count, whiten):
    references = pictures(2)
    made = detector(references, k=k, rotations=count, whiten=whiten)
    x = made.prepare(pictures(3, seed=1))
    scores = made.patch_scores(x)
    assert scores.dtype == torch.float32
    expected = brute_force(made, references, x, k, count)
    assert np.allclose(scores.numpy(), expected, atol=2e-6)
    assert expected.max() > 1e-3


def test_the_bank_holds_every_rotation_of_every_image():
    references = pictures(3)
    made = detector(references, rotations=8)
    assert made.bank.shape == (8 * 64 * 3, 43)
    assert torch.allclose(made.bank.norm(dim=1), torch.ones(len(made.bank)), atol=1e-5)
    for index in range(3):
        with torch.no_grad():
            own = made.patch_features(made.prepare(references[index]))[0]
        first = made.bank[index * 8 * 64 :][:64]
        assert torch.allclose(first, torch.nn.functional.normalize(own, dim=1), atol=1e-5)


def test_fitted_images_score_nothing():
    made = detector(pictures(2))
    assert float(made.predict(pictures(2)).score.max()) < 1e-5
    assert float(made.predict(pictures(2, seed=5)).score.min()) > 1e-2


def test_a_detector_is_a_patch_scorer():
    made = detector()
    assert isinstance(made, Detector)
    assert isinstance(made, PatchScorer)
    assert not made.training
    assert not any(p.requires_grad for p in made.parameters())


def test_masked_patches_score_exactly_nothing():
    disc = np.full((128, 128, 3), 30, np.uint8)
    rows, columns = np.mgrid[:128, :128]
    disc[(rows - 64) ** 2 + (columns - 64) ** 2 < 30**2] = (220, 180, 90)
    noise = np.random.default_rng(0).integers(0, 20, disc.shape, np.uint8)
    plain = AnomalyDINO("filters", image_size=128).fit(disc)
    masked = AnomalyDINO("filters", image_size=128, mask=True, mask_threshold=0.8, mask_unit="std")
    masked.fit(disc)
    assert masked.mask
    assert not plain.mask
    x = masked.prepare(disc + noise)
    inside = masked.foreground(masked.backbone(x), x)
    assert 60 < int(inside.sum()) < 230
    assert inside.reshape(1, 16, 16)[:, 5:11, 5:11].all()
    scores = masked.patch_scores(x)
    assert torch.equal(scores[~inside], torch.zeros(int((~inside).sum())))
    assert torch.equal(scores[inside], plain.patch_scores(x)[inside])
    leaf = x.clone().requires_grad_(True)
    masked.patch_scores(leaf)[~inside].sum().backward()
    assert torch.equal(leaf.grad, torch.zeros_like(x))


def test_predict_is_patch_scores_of_prepared_images():
    made = detector()
    images = pictures(3, 80, 64, seed=4)
    found = made.predict(images)
    with torch.no_grad():
        x = made.prepare(images)
        scores = made.patch_scores(x)
        maps = made.anomaly_map(scores, (80, 64))
        assert torch.equal(made(x), made.aggregate(scores))
    assert x.shape == (3, 3, 80, 64)
    assert np.array_equal(found.score, made.aggregate(scores).numpy())
    assert found.patch_scores[0].shape == (10, 8)
    assert np.array_equal(np.stack(found.patch_scores).reshape(3, 80), scores.numpy())
    assert np.allclose(np.stack(found.anomaly_map), maps.numpy(), atol=1e-7)
    assert found.verdict == [Verdict.UNCALIBRATED] * 3
    assert np.isnan(found.probability).all()


def test_mixed_sizes_keep_their_order_and_size():
    made = detector()
    sizes = [(64, 64), (100, 70), (64, 64), (64, 64), (70, 131), (33, 21)]
    images = [pictures(1, h, w, seed=i)[0] for i, (h, w) in enumerate(sizes)]
    found = made.predict(images, batch_size=2)
    assert [m.shape for m in found.anomaly_map] == sizes
    assert found.names == [f"image {i}" for i in range(6)]
    for i, image in enumerate(images):
        alone = made.predict(image)
        assert alone.score[0] == pytest.approx(found.score[i], abs=1e-5)
        assert np.allclose(alone.anomaly_map[0], found.anomaly_map[i], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_batch_size_does_not_matter(batch_size):
    made = detector(mask=True)
    images = pictures(5, seed=2)
    found = made.predict(images, batch_size=batch_size)
    for image, score in zip(images, found.score, strict=True):
        assert score == pytest.approx(made.predict(image).score[0], abs=1e-5)


def test_calibrated_predictions():
    made = detector()
    made.calibrator, made.policy = RawScore(), Policy(threshold=0.05)
    found = made.predict(pictures(3, seed=2))
    assert np.allclose(found.probability, np.clip(found.score, 0, 1))
    expected = [Verdict.REJECT if p >= 0.05 else Verdict.ACCEPT for p in found.probability]
    assert found.verdict == expected
    made.fit(pictures(2, seed=9))
    assert made.calibrator is None
    assert made.policy == Policy()


@pytest.mark.parametrize("k", [1, 3])
def test_gradients_match_finite_differences(k):
    made = AnomalyDINO("filters", image_size=16, k=k).fit(pictures(2, 16, 16))
    x = made.prepare(pictures(2, 16, 16, seed=3)) * 0.8 + 0.1
    leaf = x.clone().requires_grad_(True)
    weights = torch.linspace(0.5, 1.5, 4)
    (made.patch_scores(leaf) * weights).sum().backward()
    assert torch.isfinite(leaf.grad).all()
    assert float(leaf.grad.abs().max()) > 1e-3

    def value(at):
        with torch.no_grad():
            return float((made.patch_scores(at) * weights).double().sum())

    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        direction = torch.sign(torch.randn(x.shape, generator=generator))
        slope = float((leaf.grad * direction).sum())
        h = 1e-3
        numeric = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
        assert slope == pytest.approx(numeric, rel=0.05, abs=0.02)


@pytest.mark.parametrize(
    ("top_fraction", "count"), [(0.01, 1), (0.02, 1), (0.5, 32), (1.0, 64), (1, 1), (10, 10)]
)
def test_image_scores_are_the_mean_of_the_largest(top_fraction, count):
    made = detector(top_fraction=top_fraction)
    x = made.prepare(pictures(3, seed=7))
    with torch.no_grad():
        scores = made.patch_scores(x)
        expected = np.sort(scores.numpy(), axis=1)[:, -count:].mean(axis=1)
        assert np.allclose(made(x).numpy(), expected, atol=1e-7)


def test_a_changed_bank_is_packed_anew():
    made = detector(pictures(4))
    x = made.stack([made.geometry.apply(picture) for picture in pictures(2, seed=8)])
    before = made.patch_scores(x)
    assert torch.equal(made.patch_scores(x), before)
    made.bank.mul_(-1)
    turned = made.patch_scores(x)
    assert not torch.allclose(turned, before, atol=0.1)
    made.bank = -made.bank
    assert torch.equal(made.patch_scores(x), before)
    made.fit(pictures(4, seed=3))
    assert not torch.equal(made.patch_scores(x), before)


@pytest.mark.parametrize(("coreset", "rows"), [(20, 20), (0.25, 32), (1.0, 128)])
def test_a_coreset_is_part_of_the_bank(coreset, rows):
    references = pictures(2)
    full, made = detector(references), detector(references, coreset=coreset)
    again = detector(references, coreset=coreset)
    assert made.bank.shape == (rows, 43)
    assert torch.equal(made.bank, again.bank)
    nearest = torch.cdist(made.bank, full.bank).min(dim=1).values
    assert float(nearest.max()) < 1e-3
    images = pictures(3, seed=2)
    assert (made.predict(images).score >= full.predict(images).score - 1e-6).all()


def test_a_coreset_of_equal_images_holds_no_vector_twice():
    [image] = pictures(1)
    made = detector([image, image], coreset=128)
    assert made.bank.shape == (128, 43)
    assert float(made.predict(image).score[0]) < 1e-5


def test_before_fit():
    made = AnomalyDINO("filters", image_size=64)
    for call in (lambda: made.predict(pictures(1)), lambda: made(torch.zeros(1, 3, 64, 64))):
        with pytest.raises(NotFittedError, match=r"call fit\(images\) first"):
            call()
    with pytest.raises(NotFittedError, match="no memory bank to save"):
        made.saved_tensors()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k: expected >= 1, got 0"),
        ({"k": 1.5}, "k: .*integer"),
        ({"rotations": 0}, "rotations: expected >= 1, got 0"),
        ({"rotations": 361}, "rotations: .*360, got 361"),
        ({"image_size": 7}, "image_size: expected at least one patch of 8 pixels, got 7"),
        ({"image_size": 0}, "image_size: expected at least one patch of 8 pixels, got 0"),
        ({"top_fraction": 0.0}, r"top_fraction: expected a share in \(0, 1\]"),
        ({"top_fraction": 0}, "top_fraction: expected a share"),
        ({"top_fraction": 1.5}, "top_fraction: .* got 1.5"),
        ({"map_sigma": -1}, "map_sigma: expected >= 0 pixels, got -1"),
        ({"mask_unit": "metre"}, "mask_unit: .*'absolute' or 'std', got 'metre'"),
        ({"coreset": "half"}, "coreset: .* got 'half'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        AnomalyDINO("filters", **{"image_size": 64, **options})


def test_an_image_size_is_rounded_down_to_whole_patches():
    made = AnomalyDINO("filters", image_size=71)
    assert made.geometry.size == 64
    assert made.config().image_size == 71
    assert made.prepare(pictures(1)).shape == (1, 3, 64, 64)


def test_a_fit_that_fails_leaves_the_detector_as_it_was():
    made = detector(k=100)
    made.calibrator = RawScore()
    before = made.predict(pictures(2, seed=3)).score
    with pytest.raises(InputError, match="k: expected at most the bank's 64 vectors, got 100"):
        made.fit(pictures(1, seed=4))
    assert np.array_equal(made.predict(pictures(2, seed=3)).score, before)
    assert isinstance(made.calibrator, RawScore)
    with pytest.raises(InputError, match=r"coreset: expected 1..64 vectors"):
        detector(pictures(1), coreset=65)
    with pytest.raises(InputError, match="expected at least one normal image, got none"):
        made.fit([])


def test_errors_name_the_file(tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    made = AnomalyDINO("filters", image_size=64)
    with pytest.raises(InputError, match=r"b\.png: cannot be read"):
        made.fit(tmp_path)
    (tmp_path / "b.png").unlink()
    made.fit(tmp_path)
    assert made.predict(tmp_path).names == [str(tmp_path / "a.png")]
    with pytest.raises(InputError, match=r"c\.png: no such image"):
        made.predict(tmp_path / "c.png")


def test_errors_of_predict_and_prepare():
    made = detector()
    with pytest.raises(InputError, match="expected at least one image, got none"):
        made.predict([])
    with pytest.raises(InputError, match="expected at least one image, got none"):
        made.prepare([])
    with pytest.raises(InputError, match="batch_size: expected >= 1, got 0"):
        made.predict(pictures(1), batch_size=0)
    with pytest.raises(InputError, match=r"image 1: prepared to .* but image 0 to"):
        made.prepare([*pictures(1, 64, 64), *pictures(1, 64, 96)])
    assert AnomalyDINO("filters", image_size=64, square=True).prepare(
        [*pictures(1, 64, 64), *pictures(1, 64, 96)]
    ).shape == (2, 3, 64, 64)


def test_oblong_maps_keep_their_orientation():
    """A defect near the right edge of a wide image is hottest there."""
    [clean] = pictures(1, 64, 128)
    made = detector([clean])
    spoilt = clean.copy()
    spoilt[40:56, 96:112] = (255, 0, 255)
    [anomaly_map] = made.predict(spoilt).anomaly_map
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert 32 <= row < 64
    assert 88 <= column < 120


def test_defaults_of_the_mask():
    made = AnomalyDINO("filters", image_size=64).config()
    assert (made.mask_threshold, made.mask_unit, made.whiten) == (0.5, "std", True)
    made = AnomalyDINO("filters", image_size=64, mask_threshold=3.0).config()
    assert (made.mask_threshold, made.mask_unit) == (3.0, "absolute")
    backbone = FilterBank()
    backbone.config = BackboneConfig(name="vit_small_patch14_dinov2.lvd142m")
    made = AnomalyDINO(backbone).config()
    assert (made.mask_threshold, made.mask_unit, made.whiten) == (10.0, "absolute", False)


def test_for_category_takes_the_preset_and_options():
    made = AnomalyDINO.for_category("screw", backbone="filters", image_size=64).config()
    assert (made.rotations, made.mask) == (8, True)
    made = AnomalyDINO.for_category(
        "screw", preprocessing="none", backbone="filters", image_size=64, mask=True, k=3
    ).config()
    assert (made.rotations, made.mask, made.k) == (1, True, 3)


@pytest.mark.skipif(
    not (RESNET.is_file() and HAZELNUT.is_dir()),
    reason="no shared/weights and shared/data beside the repository",
)
def test_few_shots_of_real_images_with_real_features():
    data = shots(folder(HAZELNUT), 1)
    good = [sample for sample in data.test if not sample.label][:3]
    bad = [sample for sample in data.test if sample.label][::6][:3]
    made = AnomalyDINO("resnet18", RESNET, image_size=160).fit([s.image for s in data.train])
    found = made.predict([sample.image for sample in (*good, *bad)])
    assert auroc(found.score, [0, 0, 0, 1, 1, 1]) == 1.0
    for sample, anomaly_map in zip(bad, found.anomaly_map[3:], strict=True):
        truth = sample.read_mask()
        assert anomaly_map[truth].mean() > 1.2 * anomaly_map[~truth].mean()
