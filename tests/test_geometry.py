import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode

from robustad.errors import InputError
from robustad.geometry import Geometry, resize_bicubic, resize_bilinear

RNG = np.random.default_rng(0)
# (height, width) before and after: up, down, both, odd, single pixels, prime lengths.
SIZES = [
    ((20, 30), (60, 90)),
    ((120, 90), (31, 45)),
    ((64, 64), (64, 64)),
    ((64, 40), (64, 23)),
    ((37, 53), (71, 29)),
    ((101, 7), (13, 97)),
    ((1, 1), (5, 8)),
    ((1, 50), (14, 3)),
    ((33, 47), (1, 1)),
    ((3, 2), (2, 3)),
    ((500, 400), (28, 42)),
]
KERNELS = [
    (resize_bicubic, Image.Resampling.BICUBIC, InterpolationMode.BICUBIC),
    (resize_bilinear, Image.Resampling.BILINEAR, InterpolationMode.BILINEAR),
]

geometries = st.builds(
    lambda patches, rest, multiple, square: Geometry(
        size=patches * multiple + rest % multiple, multiple=multiple, square=square
    ),
    st.integers(1, 5),
    st.integers(0, 100),
    st.integers(1, 16),
    st.booleans(),
)
edges = st.integers(1, 90)


def noise(height, width):
    return RNG.random((height, width, 3), dtype=np.float32)


# Resizing against others


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize(("resize", "pillow", "torch_mode"), KERNELS)
def test_resizing_agrees_with_pillow_and_torchvision(resize, pillow, torch_mode, before, after):
    pixels = noise(*before)
    ours = resize(pixels, *after)
    assert ours.shape == (*after, 3)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    for channel in range(3):
        plane = pixels[..., channel]
        theirs = Image.fromarray(plane).resize(after[::-1], pillow)
        np.testing.assert_allclose(ours[..., channel], theirs, rtol=0, atol=1e-5)
        np.testing.assert_allclose(resize(plane, *after), ours[..., channel], rtol=0, atol=1e-6)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    theirs = tv.resize(tensor, list(after), interpolation=torch_mode, antialias=True)
    np.testing.assert_allclose(ours, theirs.permute(1, 2, 0), rtol=0, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(edges, edges, edges, edges, st.sampled_from(KERNELS))
def test_resizing_agrees_with_pillow_at_any_size(height, width, new_height, new_width, kernel):
    resize, pillow, _ = kernel
    pixels = np.random.default_rng(height * 100 + width).random((height, width), np.float32)
    theirs = Image.fromarray(pixels).resize((new_width, new_height), pillow)
    np.testing.assert_allclose(resize(pixels, new_height, new_width), theirs, rtol=0, atol=1e-5)


def test_strided_input():
    pixels = noise(40, 60)
    for view in (pixels[::2, ::-1], np.asfortranarray(pixels), pixels.astype(np.float64)):
        expected = resize_bicubic(np.array(view, np.float32, order="C"), 21, 35)
        np.testing.assert_allclose(resize_bicubic(view, 21, 35), expected, rtol=0, atol=1e-6)


def test_nothing_is_lost_without_resizing():
    pixels = noise(28, 42)
    np.testing.assert_array_equal(Geometry(size=28, multiple=14).apply(pixels), pixels)


# Shapes


@settings(max_examples=150, deadline=None)
@given(geometries, edges, edges)
@example(Geometry(size=28, multiple=14), 1, 1)
@example(Geometry(size=28, multiple=14), 1, 500)
@example(Geometry(size=28, multiple=14), 500, 1)
def test_shapes(geometry, height, width):
    pixels = np.full((height, width, 3), 0.25, np.float32)
    resized = geometry.resized(height, width)
    top, left, cropped_h, cropped_w = geometry.crop(*resized)
    prepared = geometry.apply(pixels)
    assert prepared.shape == (cropped_h, cropped_w, 3)
    assert cropped_h % geometry.multiple == cropped_w % geometry.multiple == 0
    assert 0 < cropped_h <= resized[0] < cropped_h + geometry.multiple
    assert 0 < cropped_w <= resized[1] < cropped_w + geometry.multiple
    # centred, up to one pixel
    assert 0 <= resized[0] - cropped_h - 2 * top <= 1
    assert 0 <= resized[1] - cropped_w - 2 * left <= 1
    assert min(resized) == geometry.size
    if geometry.square:
        assert max(resized) == geometry.size
    else:
        ratio = max(height, width) / min(height, width)
        assert abs(max(resized) - geometry.size * ratio) <= 0.5
    # constants stay constant, also on the way back
    np.testing.assert_allclose(prepared, 0.25, rtol=0, atol=1e-6)
    restored = geometry.restore(prepared[..., 0], height, width)
    assert restored.shape == (height, width)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, 0.25, rtol=0, atol=1e-6)
    assert geometry.apply_mask(np.ones((height, width), np.bool_)).shape == prepared.shape[:2]


def test_sizes_in_numbers():
    geometry = Geometry(size=448, multiple=14)
    assert geometry.resized(1024, 1024) == (448, 448)
    assert geometry.resized(900, 600) == (672, 448)
    assert geometry.resized(600, 1000) == (448, 747)
    assert geometry.crop(448, 747) == (0, 2, 448, 742)
    assert Geometry(size=450, multiple=14, square=True).crop(450, 450) == (1, 1, 448, 448)
    assert Geometry() == geometry


def test_an_image_of_one_row():
    geometry = Geometry(size=14, multiple=14)
    ramp = np.linspace(0, 1, 5000, dtype=np.float32)
    pixels = np.repeat(ramp[None, :, None], 3, axis=-1)
    prepared = geometry.apply(pixels)
    assert prepared.shape == (14, 70000, 3)
    np.testing.assert_allclose(prepared[0], prepared[-1], rtol=0, atol=1e-6)
    assert np.all(np.diff(prepared[0, :, 0]) >= -1e-6)
    restored = geometry.restore(prepared[..., 0], 1, 5000)
    np.testing.assert_allclose(restored[0], ramp, rtol=0, atol=1e-3)


def test_overshoot_is_clipped():
    edge = np.zeros((40, 40, 3), np.float32)
    edge[:, 20:] = 1
    raw = resize_bicubic(edge, 90, 90)
    assert raw.min() < -0.01
    assert raw.max() > 1.01
    prepared = Geometry(size=90, multiple=9).apply(edge)
    assert (prepared.min(), prepared.max()) == (0.0, 1.0)


# Masks


@settings(max_examples=60, deadline=None)
@given(geometries, edges, edges)
def test_a_mask_holds_no_invented_values(geometry, height, width):
    labels = np.arange(height * width, dtype=np.int64).reshape(height, width) % 7 * 3
    resized = geometry.apply_mask(labels)
    assert set(np.unique(resized)) <= set(np.unique(labels))
    mask = geometry.apply_mask(labels > 5)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, resized > 5)


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_masks_agree_with_pillow(before, after):
    mask = RNG.random(before) < 0.5
    geometry = Geometry(size=min(after), multiple=1)
    height, width = geometry.resized(*before)
    theirs = Image.fromarray(mask.astype(np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    rows = [i for i in range(height) if (2 * i + 1) * before[0] % (2 * height)]
    columns = [i for i in range(width) if (2 * i + 1) * before[1] % (2 * width)]
    # a centre that falls between two pixels is left to rounding in Pillow
    at = np.ix_(rows, columns)
    np.testing.assert_array_equal(geometry.apply_mask(mask)[at], np.asarray(theirs)[at] > 0)


def test_a_mask_takes_the_pixel_under_each_centre():
    ids = np.arange(400)[None]  # centre 24 of 28 falls on (24 + 1/2) * 400 / 28 = 350
    resized = Geometry(size=28, multiple=1, square=True).apply_mask(ids)
    expected = [math.floor(Fraction(2 * i + 1, 2) * 400 / 28) for i in range(28)]
    np.testing.assert_array_equal(resized, [expected] * 28)


@pytest.mark.parametrize("shape", [(90, 160), (301, 77), (40, 41), (700, 500)])
@pytest.mark.parametrize("square", [False, True])
def test_a_mask_overlays_its_image(shape, square):
    geometry = Geometry(size=113, multiple=14, square=square)
    height, width = shape
    pixels = np.zeros((height, width, 3), np.float32)
    box = np.s_[height // 4 : height // 2, width // 3 : 2 * width // 3]
    pixels[box] = 1
    mask = geometry.apply_mask(pixels[..., 0] > 0)
    bright = geometry.apply(pixels)[..., 0] > 0.5
    # the two may differ on the square's outline alone
    inside = ~(~mask | np.roll(~mask, 1, 0) | np.roll(~mask, -1, 0))
    inside &= np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
    outside = ~(mask | np.roll(mask, 1, 0) | np.roll(mask, -1, 0))
    outside &= ~np.roll(mask, 1, 1) & ~np.roll(mask, -1, 1)
    assert inside.any()
    assert outside.any()
    assert bright[inside].all()
    assert not bright[outside].any()


# The way back


@pytest.mark.parametrize("shape", [(128, 128), (150, 250), (333, 200), (64, 97), (40, 31)])
def test_a_smooth_map_survives_the_round_trip(shape):
    height, width = shape
    geometry = Geometry(size=96, multiple=8)
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    bump = np.exp(-(((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2) * 8)
    bump = bump.astype(np.float32)
    prepared = geometry.apply(np.repeat(bump[..., None], 3, axis=-1))
    np.testing.assert_allclose(geometry.restore(prepared[..., 0], *shape), bump, rtol=0, atol=0.05)


def test_a_peak_comes_back_to_its_place():
    geometry = Geometry(size=96, multiple=16)
    for y, x in [(10, 100), (150, 30), (99, 199), (75, 150)]:
        pixels = np.zeros((200, 300, 3), np.float32)
        pixels[y - 4 : y + 5, x - 4 : x + 5] = 1
        restored = geometry.restore(geometry.apply(pixels)[..., 0], 200, 300)
        rows, columns = np.nonzero(restored > 0.5 * restored.max())
        assert abs(rows.mean() - y) < 1
        assert abs(columns.mean() - x) < 1


def test_the_margin_repeats_the_edge():
    geometry = Geometry(size=16, multiple=8)  # 16 x 23 is cropped to 16 x 16
    assert geometry.crop(16, 23) == (0, 3, 16, 16)
    ramp = np.tile(np.arange(16, dtype=np.float32), (16, 1))
    restored = geometry.restore(ramp, 16, 23)
    expected = np.concatenate([[0] * 3, np.arange(16), [15] * 4])
    np.testing.assert_array_equal(restored, np.tile(expected, (16, 1)))


# Errors


def test_what_a_geometry_refuses():
    with pytest.raises(InputError, match=r"^multiple: expected >= 1 pixel, got 0$"):
        Geometry(multiple=0)
    with pytest.raises(
        InputError, match=r"^size: expected at least one patch of 14 pixels, got 13$"
    ):
        Geometry(size=13, multiple=14)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Geometry().size = 3
    assert dataclasses.replace(Geometry(), square=True) != Geometry()


@pytest.mark.parametrize("shape", [(28, 42, 1), (42, 28), (28, 28), (2, 3)])
def test_a_map_of_another_shape_is_refused(shape):
    geometry = Geometry(size=28, multiple=14)
    with pytest.raises(
        InputError,
        match=r"^anomaly_map: expected shape \(28, 42\) for an image of 100 x 160 pixels, got \(",
    ):
        geometry.restore(np.zeros(shape, np.float32), 100, 160)


def test_a_strip_that_would_fill_the_memory_is_refused():
    strip = np.zeros((1, 5000, 3), np.float32)
    with pytest.raises(
        InputError, match=r"1 x 5000 pixels would be resized to about 448 x 2240000"
    ):
        Geometry(size=448).apply(strip)
    assert Geometry(size=448, square=True).apply(strip).shape == (448, 448, 3)
