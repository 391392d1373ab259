import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from robustad.attacks import attack
from robustad.certificates import angular_bounds, feature_angles, feature_bounds
from robustad.certificates.angles import ROUNDING, angle_between
from robustad.certificates.features import certify_features, measure_angles
from robustad.detectors import AnomalyDINO, PatchGuard
from robustad.errors import InputError
from robustad.networks import NetworkConfig


def turned(vectors, angles, generator):
    """Unit vectors turned by exactly these angles, in random directions."""
    unit = normalize(vectors, dim=-1)
    aside = torch.randn(unit.shape, generator=generator, dtype=unit.dtype)
    aside = normalize(aside - (aside * unit).sum(-1, keepdim=True) * unit, dim=-1)
    return torch.cos(angles)[..., None] * unit + torch.sin(angles)[..., None] * aside


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("theta", [0.0, 0.05, 0.4, 1.5, math.pi])
def test_neighbours_of_turned_features_stay_within_the_bounds(k, theta):
    generator = torch.Generator().manual_seed(0)
    bank = normalize(torch.randn(40, 5, generator=generator, dtype=torch.float64), dim=1)
    queries = torch.randn(60, 5, generator=generator, dtype=torch.float64)

    def distances(vectors):
        return (1 - normalize(vectors, dim=-1) @ bank.T).sort(dim=-1).values[..., :k]

    found = angular_bounds(distances(queries), theta)
    for _ in range(60):
        angles = theta * torch.rand(60, generator=generator, dtype=torch.float64)
        after = distances(turned(queries, angles, generator))
        assert bool((after >= found.lower).all())
        assert bool((after <= found.upper).all())


def test_bounds_are_attained_towards_and_away_from_a_lone_neighbour():
    bank = torch.tensor([1.0, 0.0], dtype=torch.float64)
    theta = 0.3
    for phi in (0.1, 0.3, 1.0, 3.0):
        found = angular_bounds(torch.tensor([1 - math.cos(phi)], dtype=torch.float64), theta)
        ends = [max(0.0, phi - theta), min(math.pi, phi + theta)]
        for end, bound in zip(ends, found, strict=True):
            turned_to = torch.tensor([math.cos(end), math.sin(end)], dtype=torch.float64)
            # rounding is widest in the angle where the distance is next to nothing
            assert float(bound) == pytest.approx(float(1 - turned_to @ bank), abs=2e-3)
    assert float(found.upper) <= 2.0


def test_an_angle_for_each_patch():
    distances = torch.full((2, 3), 0.5)
    found = angular_bounds(distances, torch.tensor([0.0, 0.1, 0.2]))
    for place, theta in enumerate((0.0, 0.1, 0.2)):
        alone = angular_bounds(distances[:, place], theta)
        assert torch.equal(found.lower[:, place], alone.lower)
        assert torch.equal(found.upper[:, place], alone.upper)
    assert bool((found.lower[:, 0] >= 0.5 - 3 * ROUNDING).all())


def fitted(samples, **options):
    normal = [one.image for one in samples(2, 0, seed=7)]
    return AnomalyDINO("filters", **{"image_size": 32, "top_fraction": 3, **options}).fit(normal)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3},
        {"k": 3, "reduce": "max"},
        {"whiten": False},
        {"mask": True, "mask_threshold": 0.1},
    ],
)
def test_attacked_scores_stay_within_the_bounds_of_their_own_angles(samples, options):
    detector = fitted(samples, **options)
    chosen = samples(2, 2, seed=1)
    x = detector.prepare([one.image for one in chosen])
    label = torch.tensor([one.label for one in chosen])
    result = attack(detector, x, label=label, attack="pgd5", eps=8 / 255)
    theta = feature_angles(detector, x, result.x_adv)  # one an image and patch
    assert theta.shape == detector.patch_scores(x).shape
    assert float(theta.max()) > 0.01
    patch, image = feature_bounds(detector, x, theta)
    after = detector.patch_scores(result.x_adv)
    assert bool(((after >= patch.lower) & (after <= patch.upper)).all())
    assert bool(((result.score >= image.lower) & (result.score <= image.upper)).all())
    wide = feature_bounds(detector, x, float(theta.max()))[1]
    assert bool((wide.lower <= image.lower).all() & (wide.upper >= image.upper).all())


def test_without_a_turn_bounds_are_the_scores(samples):
    detector = fitted(samples)
    x = detector.prepare([one.image for one in samples(1, 1)])
    patch, image = feature_bounds(detector, x, 0.0)
    for bounds, scores in ((patch, detector.patch_scores(x)), (image, detector(x))):
        assert torch.allclose(bounds.lower, scores, atol=1e-5)
        assert torch.allclose(bounds.upper, scores, atol=1e-5)


def test_a_foreground_taken_for_given_is_tighter(samples):
    detector = fitted(samples, mask=True, mask_threshold=0.5)
    x = detector.prepare([one.image for one in samples(1, 1)])
    mask = detector.neighbour_distances(x)[1]
    assert 0 < mask.float().mean() < 1
    free, given = (
        feature_bounds(detector, x, 0.1),
        feature_bounds(detector, x, 0.1, fixed_mask=True),
    )
    assert bool((free[0].lower == 0).all())
    assert bool((given[0].upper[~mask] == 0).all())
    assert bool((given[0].lower[mask] > 0).any())
    assert bool((free[1].upper >= given[1].upper).all())


def test_angles_between_vectors():
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 0.0]]).double()
    second = torch.tensor([[0.0, 3.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1e-8]]).double()
    expected = [math.pi / 2, math.pi, 0.0, math.pi, 1e-8]
    assert angle_between(first, second).tolist() == pytest.approx(expected, rel=1e-6)


def test_a_data_set_at_several_angles_beside_measured_ones(samples):
    detector, chosen = fitted(samples), samples(3, 3, seed=2)
    found = certify_features(
        detector, chosen, angles=[20.0, 0.0, 5.0], attacks=["pgd3", "pgd3_l2"], eps=2 / 255
    )
    assert [point.degrees for point in found.points] == [0.0, 5.0, 20.0]
    values = [point.auroc for point in found.points]
    assert values[0] == found.auroc
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]
    assert [one.norm for one in found.measured] == ["linf", "l2"]
    for one in found.measured:
        assert 0 < one.median <= one.p99 <= one.largest <= 180
        assert one.certified is False
    assert found.measured[0].largest > found.measured[1].largest  # 2/255 in l2 is next to nothing
    rates = [point.rates[0] for point in found.points]
    assert np.all(np.diff([one.fpr for one in rates]) >= 0)
    assert np.all(np.diff([one.fnr for one in rates]) >= 0)


def test_bad_angles(samples):
    detector = fitted(samples)
    x = detector.prepare([one.image for one in samples(1, 1)])
    for theta, message in (
        (-0.1, r"theta: expected radians in \[0, pi\], got -0\.1"),
        (4.0, "theta: expected radians"),
        (math.nan, "theta: expected radians"),
        (torch.zeros(3), r"theta: expected one angle, \(16,\) or \(2, 16\), got \(3,\)"),
    ):
        with pytest.raises(InputError, match=message):
            feature_bounds(detector, x, theta)
    with pytest.raises(InputError, match=r"distances: expected 1 - cos in \[0, 2\], got 3\.\.3"):
        angular_bounds(torch.tensor([3.0]), 0.1)
    with pytest.raises(InputError, match="distances: expected 1 - cos"):
        angular_bounds(torch.tensor([math.nan]), 0.1)
    with pytest.raises(InputError, match=r"angles: expected degrees in \[0, 180\], got 200"):
        certify_features(detector, samples(1, 1), angles=[200.0])
    with pytest.raises(InputError, match="clean and attacked: expected one shape"):
        feature_angles(detector, x, x[:1])


def test_other_detectors_are_refused(samples):
    small = PatchGuard(NetworkConfig(image_size=28, depth=1, embed_dim=32, num_heads=2), top_k=1)
    x = torch.rand(1, 3, 28, 28)
    with pytest.raises(InputError, match="expected a nearest-neighbour detector, got PatchGuard"):
        feature_bounds(small, x, 0.1)
    with pytest.raises(InputError, match=r"detector \(anomaly_dino\), got 'patchguard'"):
        certify_features(small, samples(1, 1), angles=[1.0])
    with pytest.raises(InputError, match="expected one with patch_features, got PatchGuard"):
        feature_angles(small, x, x)
    with pytest.raises(InputError, match="detector: expected a Detector, got object"):
        measure_angles(object(), samples(1, 1), "pgd3", eps=0.1)
