import json
from dataclasses import replace

import numpy as np
import pytest

from robustad.calibration import PixelPlatt, Platt, calibrate_pixels
from robustad.calibration._pixel_sample import PixelSample
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError, NotFittedError, StateError


def maps_of(count=6, size=(40, 50), seed=0, gap=2.0):
    """Noise, in every second image lifted inside a rectangle."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(count):
        mask = np.zeros(size, bool)
        if i % 2:
            y, x = rng.integers(0, 25, 2)
            mask[y : y + 8, x : x + 10] = True
        maps.append(rng.normal(gap * mask, 1.0).astype(np.float32))
        masks.append(mask)
    return maps, masks


def test_of_all_pixels_it_is_platt():
    maps, masks = maps_of()
    found = PixelPlatt().fit(maps, masks)
    values = np.concatenate([one.ravel() for one in maps])
    labels = np.concatenate([one.ravel() for one in masks])
    platt = Platt().fit(values, labels)
    assert (found.slope, found.intercept) == pytest.approx((platt.slope, platt.intercept))
    assert found.prevalence == labels.mean()
    assert (found.n_anomalous, found.n_normal) == (labels.sum(), (~labels).sum())
    assert (found.n_sampled, found.n_images) == (values.size, 6)
    p = found.predict_proba(maps[0])
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.ravel(), platt.predict_proba(maps[0].ravel()), atol=1e-7)


def test_a_balanced_sample_is_corrected_for_what_it_left_out():
    maps, masks = maps_of(60)
    everything = PixelPlatt().fit(maps, masks)
    sampled = PixelPlatt().fit(maps, masks, pixels=4000)
    assert sampled.n_sampled == 4000
    assert sampled.prevalence == everything.prevalence < 0.03
    at = np.linspace(-1, 4, 11)
    np.testing.assert_allclose(sampled.predict_proba(at), everything.predict_proba(at), atol=0.05)
    # And the true curve: N(2, 1) over N(0, 1) at this rate.
    odds = everything.prevalence / (1 - everything.prevalence) * np.exp(2 * at - 2)
    np.testing.assert_allclose(sampled.predict_proba(at), odds / (1 + odds), atol=0.05)


def test_bayes_rule_for_other_rates():
    found = PixelPlatt().fit(*maps_of(60))
    there = found.with_prior(0.5)
    assert there.predict_proba(1.0) == pytest.approx(0.5, abs=0.03)
    assert there.with_prior(found.prevalence).intercept == pytest.approx(found.intercept)
    # Half the images have a defect; a tenth of that rate means a tenth of the pixels.
    rarer = found.with_defect_rate(0.05)
    assert rarer.prevalence == pytest.approx(found.prevalence / 10)
    assert rarer.with_defect_rate(0.5).prevalence == pytest.approx(found.prevalence)
    for rate in (0.0, 1.0):
        with pytest.raises(InputError, match=r"rate: expected a number in \(0, 1\)"):
            found.with_prior(rate)
        with pytest.raises(InputError, match=r"rate: expected a number in \(0, 1\)"):
            found.with_defect_rate(rate)


@pytest.mark.parametrize(
    ("normal", "anomalous", "expected"),
    [(900, 900, (50, 50)), (900, 10, (90, 10)), (10, 900, (10, 90)), (30, 20, (30, 20))],
)
def test_the_sample_is_balanced_as_far_as_it_can_be(normal, anomalous, expected):
    sample = PixelSample(100, 0)
    truth = np.repeat([False, True], [normal, anomalous])
    for part in np.array_split(np.random.default_rng(0).permutation(truth.size), 7):
        sample.add(part[None].astype(float), truth[part][None])
    found = sample.values()
    assert (found[0].size, found[1].size) == expected
    assert len(set(np.concatenate(found))) == sum(expected)  # without replacement
    assert sample.seen == [normal, anomalous]
    assert set(found[0]) <= set(range(normal))


def test_every_pixel_is_drawn_equally_often():
    truth = np.repeat([False, True], [40, 40])
    times = np.zeros(80)
    for seed in range(800):
        sample = PixelSample(20, seed)
        for part in (np.arange(10), np.arange(10, 70), np.arange(70, 80)):
            sample.add(part[None].astype(float), truth[part][None])
        times[np.concatenate(sample.values()).astype(int)] += 1
    np.testing.assert_allclose(times / 800, 0.25, atol=0.06)


def test_the_seed_and_only_the_seed_changes_the_draw():
    maps, masks = maps_of(20)
    first, again, other = (
        PixelPlatt().fit(iter(maps), iter(masks), pixels=500, seed=seed) for seed in (0, 0, 1)
    )
    assert first.to_dict() == again.to_dict()
    assert first.slope != other.slope


def test_saved_and_restored():
    found = PixelPlatt().fit(*maps_of())
    state = json.loads(json.dumps(found.to_dict()))
    again = PixelPlatt.from_dict(state)
    assert again.to_dict() == found.to_dict()
    for change, message in (
        ({"slope": "2"}, "pixel calibration: slope: "),
        ({"colour": 1}, "colour: "),
        ({"method": "platt"}, "method: "),
        ({"anomalous_images": 0.0}, "anomalous_images: "),
    ):
        with pytest.raises(StateError, match=message):
            PixelPlatt.from_dict({**state, **change})


def test_nan_stays_nan_and_extremes_are_certain():
    found = PixelPlatt().fit(*maps_of())
    p = found.predict_proba(np.array([[np.nan, -1e30], [0.0, 1e30]]))
    assert np.isnan(p[0, 0])
    assert (p[0, 1], p[1, 1]) == (0.0, 1.0)
    assert repr(found).startswith("PixelPlatt(slope=")
    assert repr(PixelPlatt()) == "PixelPlatt()"


def test_bad_arguments():
    maps, masks = maps_of()
    with pytest.raises(InputError, match="maps and masks: expected equally many"):
        PixelPlatt().fit(maps, masks[:-1])
    with pytest.raises(InputError, match=r"of the same shapes, got \(40, 50\) and \(50, 40\)"):
        PixelPlatt().fit(maps, [mask.T for mask in masks])
    with pytest.raises(InputError, match=r"bool masks .* of int64"):
        PixelPlatt().fit(maps, [mask.astype(int) for mask in masks])
    with pytest.raises(InputError, match=r"maps: expected finite floating-point values \("):
        PixelPlatt().fit([np.full((2, 2), np.nan)], [np.zeros((2, 2), bool)])
    with pytest.raises(InputError, match="found no anomalous one in 1 images"):
        PixelPlatt().fit(maps[:1], masks[:1])
    with pytest.raises(InputError, match="found no normal one in 0 images"):
        PixelPlatt().fit([], [])
    with pytest.raises(InputError, match="scores: expected different values"):
        PixelPlatt().fit([np.zeros((2, 2))], [np.eye(2, dtype=bool)])
    for pixels in (1, 2.5, True):
        with pytest.raises(InputError, match="pixels: expected a whole number >= 2, got"):
            PixelPlatt().fit(maps, masks, pixels=pixels)
    for use in (
        lambda c: c.predict_proba(maps[0]),
        lambda c: c.with_prior(0.1),
        lambda c: c.with_defect_rate(0.1),
        lambda c: c.to_dict(),
        lambda c: (c.slope, c.intercept, c.prevalence),
        lambda c: (c.n_normal, c.n_anomalous, c.n_sampled, c.n_images),
    ):
        with pytest.raises(NotFittedError, match=r"PixelPlatt: fit\(maps, masks\) has to come fir"):
            use(PixelPlatt())


def test_an_error_inside_an_iterable_is_not_taken_for_unequal_lengths():
    def broken():
        yield np.zeros((2, 2))
        raise ValueError("no more maps")

    with pytest.raises(ValueError, match="no more maps"):
        PixelPlatt().fit(broken(), [np.zeros((2, 2), bool)] * 2)


@pytest.fixture(scope="module")
def surfaces():
    from robustad.data.surfaces import Surfaces

    return Surfaces(size=96, train=4, test_good=3, per_defect=1).load("cloth")


def test_a_detector_learns_what_its_map_means(surfaces):
    samples = surfaces.test
    detector = AnomalyDINO("filters", image_size=96).fit([one.image for one in surfaces.train])
    assert calibrate_pixels(detector, samples, pixels=5000) is detector
    found = detector.pixel_calibrator
    prediction = detector.predict([one.image for one in samples])
    masks = [one.read_mask() for one in samples]
    by_hand = PixelPlatt().fit(prediction.anomaly_map, masks, pixels=5000)
    assert found.slope == pytest.approx(by_hand.slope, rel=1e-5)
    assert found.n_images == len(samples)
    p, truth = (np.concatenate([np.ravel(one) for one in many]) for many in (
        prediction.probability_map, masks,
    ))  # fmt: skip
    assert p[truth].mean() > 3 * p[~truth].mean()
    assert p.mean() == pytest.approx(truth.mean(), rel=0.2)  # not that of the balanced sample
    share = np.mean([mask.any() for mask in masks])
    shifted = calibrate_pixels(detector, samples, defect_rate=0.01).pixel_calibrator
    assert shifted.prevalence == pytest.approx(found.prevalence * 0.01 / share)


def test_masks_are_needed(surfaces):
    bare = [replace(one, mask=None) for one in surfaces.test]
    detector = AnomalyDINO("filters", image_size=96)
    with pytest.raises(InputError, match="expected anomalous images with masks, got none"):
        calibrate_pixels(detector, bare)
    assert detector.pixel_calibrator is None
