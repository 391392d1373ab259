import numpy as np
import pytest

from robustad.conformal import LeftOut
from robustad.detectors import AnomalyDINO, PatchGuard
from robustad.detectors.left_out import LeftOutBank
from robustad.errors import InputError
from robustad.images import iter_images
from robustad.networks import NetworkConfig

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 64, 72, 3), np.uint8)
NEW = RNG.integers(0, 256, (2, 80, 64, 3), np.uint8)

OPTIONS = [
    {"whiten": False},
    {"whiten": False, "k": 3, "top_fraction": 5},
    {"whiten": False, "rotations": 2, "mask": True, "mask_threshold": 0.3, "mask_unit": "std"},
    {"whiten": True},
    {"whiten": False, "coreset": 40},
    {"whiten": True, "coreset": 0.3, "k": 2},
    {"whiten": False, "k": 3, "reduce": "max"},
    {"whiten": False, "prune": 0.2},
]


def of(options):
    return AnomalyDINO("filters", image_size=64, **options)


@pytest.mark.parametrize("folds", [None, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_scores_are_exactly_those_of_detectors_fitted_anew(options, folds):
    left_out = LeftOut(of(options), IMAGES, folds=folds)
    assert left_out.fold.tolist() == ([0, 1, 2, 3, 4, 5] if folds is None else [0, 1, 2] * 2)
    new = left_out.scores_of(NEW)
    assert new.shape == (2, folds or 6)
    for place in range(folds or 6):
        kept = left_out.fold != place
        refitted = of(options).fit(IMAGES[kept])
        # one by one, as the backbone may round otherwise in another batch
        own, other = (refitted.predict(x, batch_size=1).score for x in (IMAGES[~kept], NEW))
        np.testing.assert_array_equal(left_out.scores[~kept], own)
        np.testing.assert_array_equal(new[:, place], other)


def test_the_detector_is_left_alone():
    detector = of({}).fit(IMAGES[:2])
    bank, centre = detector.bank.clone(), detector.centre.clone()
    LeftOut(detector, IMAGES)
    assert detector.bank.equal(bank)
    assert detector.centre.equal(centre)


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_a_plain_bank_is_monotone(options):
    left_out = LeftOut(of(options), IMAGES)
    assert left_out.monotone
    whole = of(options).fit(IMAGES).predict(NEW, batch_size=1).score
    assert (left_out.scores_of(NEW) >= whole[:, None]).all()
    assert not LeftOut(of(OPTIONS[3]), IMAGES[:3]).monotone
    assert not LeftOut(of(OPTIONS[4]), IMAGES[:3]).monotone


def test_the_backbone_sees_each_image_once(monkeypatch):
    detector, seen = of({}), []
    forward = type(detector.backbone).forward
    monkeypatch.setattr(
        type(detector.backbone),
        "forward",
        lambda self, x: seen.append(x.shape[0]) or forward(self, x),
    )
    pixels = [one.pixels for one in iter_images(IMAGES)]
    bank = LeftOutBank(detector, pixels, np.arange(6))
    assert sum(seen) == 6
    found = bank.scores(pixels[:2], np.array([[True] * 6, [False] * 5 + [True]]))
    assert sum(seen) == 8
    assert np.isnan(found).tolist() == [[False] * 6, [True] * 5 + [False]]


def test_other_detectors_are_fitted_again():
    class Other(AnomalyDINO):
        """Of another class, about whose bank nothing is known."""

    left_out = LeftOut(Other("filters", image_size=64, whiten=False), IMAGES[:3])
    assert not left_out.monotone
    expected = LeftOut(of({"whiten": False}), IMAGES[:3])
    np.testing.assert_array_equal(left_out.scores, expected.scores)
    np.testing.assert_array_equal(left_out.scores_of(NEW), expected.scores_of(NEW))


def test_what_cannot_be_left_out():
    with pytest.raises(InputError, match="images: expected at least 2 to leave one out, got 1: wi"):
        LeftOut(of({}), IMAGES[:1])
    for folds in (1, 7):
        with pytest.raises(InputError, match=rf"folds: expected 2..6 \(the images\), got {folds}"):
            LeftOut(of({}), IMAGES, folds=folds)
    with pytest.raises(InputError, match=r"k: expected at most the 64 vectors .*, got 100"):
        LeftOut(of({"k": 100}), IMAGES[:2, :, :64])
    network = NetworkConfig(image_size=28, depth=1, embed_dim=16, num_heads=1)
    with pytest.raises(InputError, match="detector: expected one with a method fit, got PatchGuar"):
        LeftOut(PatchGuard(network, top_k=1), IMAGES)
    with pytest.raises(InputError, match="images: expected at least one image, got none"):
        LeftOut(of({}), IMAGES[:2]).scores_of([])
