import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.errors import InputError
from robustad.pseudo import TRANSFORMATIONS, PseudoAnomalies, PseudoConfig

SIZE = 64


def photographs(batch, size=SIZE, seed=0):
    """Images in which neighbouring pixels differ, none of them 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, size // 8, size // 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return (0.8 * smooth + 0.1 * torch.rand(batch, 3, size, size, generator=generator)).clamp(
        0.05, 0.95
    )


def last(images):
    return images.permute(0, 2, 3, 1)


@pytest.mark.parametrize("count", [1, 3])
def test_outside_the_mask_every_bit_stays_and_inside_it_changes(count):
    images = photographs(24)
    given = images.clone()
    made = PseudoAnomalies(PseudoConfig(count=count), SIZE)(images, None, range(24))
    assert torch.equal(images, given)
    assert torch.equal(last(made.images)[~made.mask], last(images)[~made.mask])
    changed = (made.images != images).any(dim=1)
    assert float((changed & made.mask).sum() / made.mask.sum()) > 0.98
    assert made.mask.flatten(1).any(dim=1).all()
    assert 0.0 <= float(made.images.min()) <= float(made.images.max()) <= 1.0
    assert made.images.dtype == torch.float32
    assert made.mask.dtype == torch.bool


def test_an_image_and_its_seed_decide_whatever_else_is_in_the_batch():
    images, seeds = photographs(12), [7 * i + 1 for i in range(12)]
    foreground = torch.zeros(12, SIZE, SIZE, dtype=torch.bool)
    foreground[:, 10:60, 5:50] = True
    generator = PseudoAnomalies(PseudoConfig(count=2), SIZE)
    together = generator(images, foreground, seeds)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = generator(images[order], foreground[order], [seeds[i] for i in order])
    assert torch.equal(shuffled.images, together.images[order])
    assert torch.equal(shuffled.mask, together.mask[order])
    for i in range(12):
        alone = generator(images[i : i + 1], foreground[i : i + 1], seeds[i : i + 1])
        assert torch.equal(alone.mask[0], together.mask[i])
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=1e-6)


def test_the_global_random_state_is_neither_read_nor_moved():
    images, generator = photographs(4), PseudoAnomalies(image_size=SIZE)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = generator(images, None, range(4))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = generator(images, None, range(4))
    assert torch.equal(first.images, second.images)
    other = generator(images, None, range(4, 8))
    assert not torch.equal(first.mask, other.mask)


def test_foreground_holds_what_is_cut_and_what_is_pasted():
    # Object red and green in [.2, .8], background blue: nothing blue may be pasted, nor cover it.
    # Without transformations and rotation a patch's pixels are the object's.
    images = photographs(16, 96)
    foreground = torch.zeros(16, 96, 96, dtype=torch.bool)
    for i in range(16):
        foreground[i, 8 + i : 70 + i, 10:60] = True
    images[:, 2] = torch.where(foreground, 0.0, 1.0)
    config = PseudoConfig(transformations=(), rotation=(0.0, 0.0), size=(14, 86))
    made = PseudoAnomalies(config, 96)(images, foreground, range(16))
    assert not (made.mask & ~foreground).any()
    assert torch.equal(made.images[:, 2], images[:, 2])
    assert not torch.equal(made.images, images)


@pytest.mark.parametrize(("size", "image_size", "expected"), [((14, 86), 224, (14, 86)),
                                                             ((14, 86), 112, (7, 43)),
                                                             ((9, 35), 448, (18, 70))])  # fmt: skip
def test_bounds_are_respected_and_reached(size, image_size, expected):
    generator = PseudoAnomalies(PseudoConfig(rotation=(0.0, 0.0)), image_size, bounds=size)
    assert generator.bounds == expected
    images = torch.rand(1, 3, image_size, image_size).expand(64, -1, -1, -1)
    mask = generator(images, None, range(64)).mask.numpy()
    edges = []
    for one in mask:
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        edges += [np.ptp(rows) + 1, np.ptp(columns) + 1]
        assert one.sum() == edges[-1] * edges[-2]  # without rotation the box is filled
    low, high = expected
    assert low <= min(edges) < low + 0.2 * (high - low)
    assert high >= max(edges) > high - 0.2 * (high - low)


def test_size_of_the_configuration_goes_before_the_bounds():
    assert PseudoAnomalies(PseudoConfig(size=(20, 30)), 224, bounds=(9, 35)).bounds == (20, 30)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_transformation_alone_changes_pixels_and_no_mask(name):
    images = photographs(24)
    heavy = {"levels": (0.0, 0.0, 1.0), "rotation": (0.0, 0.0)}
    plain = PseudoAnomalies(PseudoConfig(transformations=(), **heavy), SIZE, bounds=(40, 120))
    only = PseudoAnomalies(PseudoConfig(transformations=(name,), **heavy), SIZE, bounds=(40, 120))
    seeds = range(100, 124)
    without, made = plain(images, None, seeds), only(images, None, seeds)
    assert torch.equal(made.mask, without.mask)
    differs = (made.images != without.images).flatten(1).any(dim=1)
    # Colour is always applied; of up to four others one alone is drawn in four of five patches.
    assert int(differs.sum()) >= (24 if name == "colour" else 14)
    assert 0.0 <= float(made.images.min()) <= float(made.images.max()) <= 1.0


def test_light_anomalies_never_get_what_only_heavy_ones_do():
    images = photographs(16)
    for name in ("lines", "perlin", "erasing", "jpeg"):
        config = {"levels": (1.0, 0.0, 0.0), "rotation": (0.0, 0.0)}
        made = [
            PseudoAnomalies(PseudoConfig(transformations=which, **config), SIZE)(
                images, None, range(16)
            ).images
            for which in ((), (name,))
        ]
        assert torch.equal(*made)


def test_opacity_blends_and_one_covers_completely():
    images = photographs(8)
    plain = {"transformations": (), "rotation": (0.0, 0.0)}
    full = PseudoAnomalies(PseudoConfig(**plain), SIZE)(images, None, range(8))
    half = PseudoAnomalies(PseudoConfig(opacity=(0.5, 0.5), **plain), SIZE)(images, None, range(8))
    assert torch.equal(half.mask, full.mask)
    expected = torch.where(full.mask[:, None], (images + full.images) / 2, images)
    torch.testing.assert_close(half.images, expected)


def test_other_floating_types_keep_their_bits_outside():
    for dtype in (torch.float64, torch.bfloat16):
        images = photographs(4).to(dtype)
        made = PseudoAnomalies(image_size=SIZE)(images, None, range(4))
        assert made.images.dtype == dtype
        assert torch.equal(last(made.images)[~made.mask], last(images)[~made.mask])


def test_no_gradient_reaches_the_result():
    images = photographs(2).requires_grad_()
    assert not PseudoAnomalies(image_size=SIZE)(images, None, [0, 1]).images.requires_grad


def test_an_empty_batch_gives_an_empty_batch():
    made = PseudoAnomalies(image_size=SIZE)(torch.rand(0, 3, SIZE, SIZE), None, [])
    assert made.images.shape == (0, 3, SIZE, SIZE)
    assert made.mask.shape == (0, SIZE, SIZE)


def tricky(kind, position):
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    y, x = position
    if kind == "pixel":
        mask[y, x] = True
    elif kind == "row":
        mask[y] = True
    elif kind == "column":
        mask[:, x] = True
    elif kind == "border":
        mask[:] = True
        mask[1:-1, 1:-1] = False
    elif kind == "corner":
        mask[:6, -6:] = True
    else:
        mask.diagonal().fill_(True)
    return mask


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["pixel", "row", "column", "border", "corner", "diagonal"]),
    st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1)),
    st.integers(-(2**63), 2**63 - 1),
)
def test_where_no_box_fits_a_least_one_lies_on_the_foreground(kind, position, seed):
    images, mask = photographs(1), tricky(kind, position)
    config = PseudoConfig(size=(28, 86), rotation=(0.0, 0.0))  # 8 pixels at least
    made = PseudoAnomalies(config, SIZE)(images, mask[None], [seed])
    assert torch.equal(last(made.images)[~made.mask], last(images)[~made.mask])
    rows, columns = made.mask[0].any(1).nonzero(), made.mask[0].any(0).nonzero()
    assert int(rows.max() - rows.min()) + 1 == int(columns.max() - columns.min()) + 1 == 8
    assert int(made.mask.sum()) == 64
    assert (made.mask[0] & mask).any()


def test_dilation_makes_room():
    mask = tricky("pixel", (32, 32))[None]
    grown = PseudoConfig(size=(14, 70), rotation=(0.0, 0.0), dilate=35)  # 10 pixels to each side
    made = PseudoAnomalies(grown, SIZE)(photographs(1), mask, [3])
    allowed = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    allowed[22:43, 22:43] = True
    assert not (made.mask[0] & ~allowed).any()


def test_empty_foregrounds_are_refused_by_name_or_taken_whole():
    images = photographs(3)
    mask = torch.ones(3, SIZE, SIZE, dtype=torch.bool)
    mask[1:] = False
    generator = PseudoAnomalies(image_size=SIZE)
    with pytest.raises(
        InputError, match="at least one pixel in each image, got none in image 1, image 2;"
    ):
        generator(images, mask, range(3))
    with pytest.raises(InputError, match=r"got none in b\.png, c\.png; empty_foreground='whole'"):
        generator(images, mask, range(3), names=["a.png", "b.png", "c.png"])
    with pytest.raises(InputError, match=r"image 4, \.\.\.;"):
        generator(photographs(6), torch.zeros(6, SIZE, SIZE, dtype=torch.bool), range(6))
    whole = PseudoAnomalies(PseudoConfig(empty_foreground="whole"), SIZE)
    made, everywhere = whole(images, mask, range(3)), whole(images, None, range(3))
    assert torch.equal(made.images, everywhere.images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(2, 3, 64, 32)}, r"images: expected .* \(B, 3, 64, 64\), got \(2, 3"),
        ({"images": torch.rand(2, 1, 64, 64)}, r"images: expected"),
        ({"images": torch.ones(2, 3, 64, 64, dtype=torch.uint8)}, "of torch.uint8"),
        ({"foreground": torch.ones(2, 64, 64)}, r"foreground: expected .* torch.bool, got .*float"),
        ({"foreground": torch.ones(3, 64, 64, dtype=torch.bool)}, r"foreground: expected a tensor"),
        ({"seeds": [1]}, "seeds: expected one for each of 2 images, got 1"),
        ({"names": ["a"]}, "names: expected one for each of 2 images, got 1"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    given = {"images": photographs(2), "foreground": None, "seeds": [1, 2], "names": None}
    with pytest.raises(InputError, match=message):
        PseudoAnomalies(image_size=SIZE)(**{**given, **change})


def test_bounds_that_make_no_patch_are_refused():
    with pytest.raises(InputError, match=r"bounds: expected 2 <= low <= high, got \(20, 10\)"):
        PseudoAnomalies(bounds=(20, 10))
    with pytest.raises(InputError, match="image_size: expected at least the least patch edge of"):
        PseudoAnomalies(image_size=64, bounds=(300, 400))


def test_an_image_as_large_as_the_largest_patch():
    generator = PseudoAnomalies(image_size=64, bounds=(224, 224))
    images = photographs(2)
    made = generator(images, None, [1, 2])
    assert generator.bounds == (64, 64)
    assert torch.equal(last(made.images)[~made.mask], last(images)[~made.mask])
