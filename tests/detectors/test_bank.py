import numpy as np
import pytest
import torch
from PIL import Image

from robustad.detectors.bank import coreset, rotations
from robustad.errors import InputError


def images(count=2, height=16, width=16, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def turn_with_pillow(image, degrees, resample):
    planes = [
        Image.fromarray(channel.numpy(), mode="F").rotate(degrees, resample=resample)
        for channel in image
    ]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))


def test_one_rotation_is_the_images_themselves():
    x = images()
    assert torch.equal(rotations(x, 1), x)


def test_quarter_turns_of_a_square_are_exact():
    x = images(count=2)
    turned = rotations(x, 4).reshape(4, 2, 3, 16, 16)
    assert torch.equal(turned[0], x)
    assert torch.allclose(turned[2], x.flip(2, 3), atol=1e-5)
    quarter = {torch.allclose(turned[1], torch.rot90(x, n, (2, 3)), atol=1e-5) for n in (1, 3)}
    assert quarter == {True, False}
    assert torch.allclose(turned[3], turned[1].flip(2, 3), atol=1e-5)


def test_a_half_turn_of_an_oblong_is_exact():
    x = images(height=10, width=24)
    assert torch.allclose(rotations(x, 2)[2:], x.flip(2, 3), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 64), (64, 40)])
def test_45_degrees_match_pillow_away_from_the_corners(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    smooth = 0.5 + 0.5 * torch.sin(rows / 5) * torch.cos(columns / 7)
    x = smooth.expand(1, 3, height, width).contiguous().float()
    turned = rotations(x, 8)
    centre = (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2
    inside = centre.sqrt() < min(height, width) / 2 - 2
    errors = []
    for degrees in (45, -45):
        expected = turn_with_pillow(x[0], degrees, Image.Resampling.BILINEAR)
        errors.append(float((turned[1] - expected).abs()[:, inside].max()))
    assert min(errors) < 2e-3
    assert max(errors) > 0.1


def test_a_quarter_turn_of_an_oblong_is_rigid_and_repeats_its_edge():
    x = images(count=1, height=16, width=32)
    quarter = rotations(x, 4)[1]
    square = x[0, :, :, 8:24]
    candidates = [torch.rot90(square, n, (1, 2)) for n in (1, 3)]
    assert any(torch.allclose(quarter[:, :, 8:24], c, atol=1e-5) for c in candidates)
    # beyond the turned image, each row repeats the last pixel inside it
    assert float(quarter.min()) >= float(x.min()) - 1e-6
    assert float(quarter[:, :, :].max()) <= float(x.max()) + 1e-6


def brute_force(points, size, first):
    """Greedy k-centre selection, literally."""
    picked = [first]
    while len(picked) < size:
        rest = [i for i in range(len(points)) if i not in picked]
        distance = [min(np.linalg.norm(points[i] - points[j]) for j in picked) for i in rest]
        picked.append(rest[int(np.argmax(distance))])
    return sorted(picked)


@pytest.mark.parametrize("seed", range(4))
def test_coreset_matches_brute_force(seed):
    vectors = torch.randn(40, 5, generator=torch.Generator().manual_seed(seed))
    [first] = coreset(vectors, 1, seed=seed).tolist()
    for size in (2, 7, 20):
        assert coreset(vectors, size, seed=seed).tolist() == brute_force(
            vectors.double().numpy(), size, first
        )


def test_coreset_sizes_and_order():
    vectors = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert len(coreset(vectors, 0.1)) == 5
    assert len(coreset(vectors, 0.0001)) == 1
    assert coreset(vectors, 1.0).tolist() == list(range(50))
    assert coreset(vectors, 50).tolist() == list(range(50))
    chosen = coreset(vectors, 13)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == sorted(set(chosen.tolist()))


def test_coreset_is_deterministic_and_depends_on_the_seed():
    vectors = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(coreset(vectors, 20, seed=3), coreset(vectors, 20, seed=3))
    assert not torch.equal(coreset(vectors, 20, seed=3), coreset(vectors, 20, seed=4))
    state = torch.get_rng_state()
    coreset(vectors, 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_coreset_never_picks_twice_among_duplicates():
    vectors = torch.ones(12, 6)
    assert coreset(vectors, 12).tolist() == list(range(12))
    mixed = torch.cat([torch.zeros(10, 3), torch.eye(3)])
    assert {10, 11, 12} <= set(coreset(mixed, 4).tolist())


@pytest.mark.parametrize("dim", [8, 300])  # 300 goes through the projection
def test_coreset_covers_better_than_chance(dim):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, dim, generator=generator)
    vectors[:3] *= 6  # outliers

    def radius(rows):
        return float(torch.cdist(vectors, vectors[rows]).min(dim=1).values.max())

    drawn = [radius(torch.randperm(300, generator=generator)[:20]) for _ in range(10)]
    assert radius(coreset(vectors, 20)) < min(drawn)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "expected 1..9 vectors"),
        (10, "expected 1..9 vectors .* got 10"),
        (-1, "expected 1..9 vectors"),
        (0.0, r"expected a share in \(0, 1\]"),
        (1.5, r"expected a share in \(0, 1\]"),
        (float("nan"), r"expected a share in \(0, 1\]"),
    ],
)
def test_coreset_refuses(size, message):
    with pytest.raises(InputError, match=f"coreset: {message}"):
        coreset(torch.randn(9, 3), size)
