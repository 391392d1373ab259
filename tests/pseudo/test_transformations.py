"""Each family of transformations against an independent implementation, patch by patch."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter, map_coordinates
from torchvision.transforms import functional as tvf

from robustad.pseudo.blur import blur
from robustad.pseudo.canvas import cut, extend, paste, rotation_points, sample
from robustad.pseudo.colour import adjust_colour
from robustad.pseudo.jpeg import jpeg
from robustad.pseudo.paint import lines, masked_colour, rectangles
from robustad.pseudo.perlin import perlin_noise
from robustad.pseudo.warp import elastic_offsets, swirl_points, warp

EDGE = 48
SHAPES = [(48, 48), (14, 37), (31, 9), (2, 2)]


@pytest.fixture(params=SHAPES, ids=str)
def patch(request):
    """A patch (3, h, w) on a canvas whose rest is NaN, so that nothing may read it."""
    h, w = request.param
    generator = torch.Generator().manual_seed(h)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    inner = torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear")
    inner = torch.round((0.8 * inner + 0.2 * torch.rand(1, 3, h, w, generator=generator)) * 255)
    canvas = torch.full((1, 3, EDGE, EDGE), torch.nan)
    canvas[..., :h, :w] = inner / 255
    return canvas, torch.tensor([h]), torch.tensor([w])


def inside(canvas, h, w):
    return canvas[0, :, : int(h), : int(w)]


def test_cut_copies_and_repeats_the_edge(patch):
    images = torch.rand(2, 3, 64, 80)
    h, w = (torch.cat([edge, edge]) for edge in patch[1:])
    y, x = torch.tensor([3, 64 - int(h[0])]), torch.tensor([0, 80 - int(w[0])])
    canvas = cut(images, y, x, h, w, EDGE)
    for i in range(2):
        expected = images[i, :, y[i] : y[i] + h[i], x[i] : x[i] + w[i]].numpy()
        rest = ((0, 0), (0, EDGE - int(h[i])), (0, EDGE - int(w[i])))
        np.testing.assert_array_equal(canvas[i].numpy(), np.pad(expected, rest, mode="edge"))


def test_extend_replaces_what_lies_beyond(patch):
    canvas, h, w = patch
    out = extend(canvas, h, w)
    assert torch.equal(inside(out, h, w), inside(canvas, h, w))
    assert not out.isnan().any()


def test_blur_is_scipys(patch):
    canvas, h, w = patch
    for sigma in (0.3, 1.7, 3.0):
        out = inside(blur(canvas, h, w, torch.tensor([sigma]), radius=12), h, w)
        for channel in range(3):
            expected = gaussian_filter(
                inside(canvas, h, w)[channel].double().numpy(), sigma, mode="nearest", radius=12
            )
            np.testing.assert_allclose(out[channel].numpy(), expected, atol=2e-6)


def test_blur_resembles_pillows():
    # Pillow approximates the Gaussian by box filters.
    canvas = torch.rand(1, 3, EDGE, EDGE)
    size = torch.tensor([EDGE])
    image = Image.fromarray((canvas[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    expected = np.asarray(image.filter(ImageFilter.GaussianBlur(2.0))) / 255
    out = blur(canvas, size, size, torch.tensor([2.0]), radius=12)[0].permute(1, 2, 0).numpy()
    assert np.abs(out - expected).mean() < 0.01


def scipy_swirl(channel, strength):
    """The published formula, pixel by pixel, sampled by scipy."""
    h, w = channel.shape
    cy, cx, sigma = h // 2, w // 2, max(1, min(h, w) // 3)
    points = np.zeros((2, h, w))
    for i in range(h):
        for j in range(w):
            dy, dx = i - cy, j - cx
            angle = strength * math.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma))
            turned = complex(dx, dy) * complex(math.cos(angle), math.sin(angle))
            points[:, i, j] = cy + turned.imag, cx + turned.real
    return map_coordinates(channel, points, order=1, mode="nearest"), points


def test_swirl_is_the_formula_sampled_by_scipy(patch):
    canvas, h, w = patch
    zero = torch.zeros(1, 2, EDGE, EDGE)
    clean = torch.nan_to_num(canvas)
    out = inside(warp(clean, h, w, strength=torch.tensor([1.6]), offsets=zero), h, w)
    for channel in range(3):
        expected, _ = scipy_swirl(inside(canvas, h, w)[channel].double().numpy(), 1.6)
        np.testing.assert_allclose(out[channel].numpy(), expected, atol=1e-4)


def test_swirl_turns_the_most_at_the_centre_and_keeps_distances():
    y, x = torch.meshgrid(torch.arange(41.0), torch.arange(41.0), indexing="ij")
    size = torch.tensor([41])
    new_y, new_x = swirl_points(y[None], x[None], size, size, torch.tensor([2.0]))
    before, after = torch.hypot(y - 20, x - 20), torch.hypot(new_y - 20, new_x - 20)[0]
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    angles = torch.atan2(new_y[0] - 20, new_x[0] - 20), torch.atan2(y - 20, x - 20)
    turned = torch.remainder(angles[0] - angles[1], 2 * math.pi)
    assert float(turned[20, 21]) == pytest.approx(2.0 * math.exp(-1 / (2 * 13**2)), abs=1e-4)
    assert float(turned[20, 40]) < float(turned[20, 30]) < float(turned[20, 21])


@pytest.mark.parametrize("unit", [1.0, 0.5])
def test_elastic_offsets_are_smoothed_noise(unit):
    noise = torch.rand(2, 2, EDGE, EDGE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    out = elastic_offsets(noise, torch.tensor([40.0, 10.0]), unit)
    for i, amplitude in enumerate((40.0, 10.0)):
        for axis in range(2):
            smooth = gaussian_filter(
                noise[i, axis].double().numpy(), 3.0 * unit, mode="nearest", radius=round(12 * unit)
            )
            expected = smooth * amplitude * unit**2
            np.testing.assert_allclose(out[i, axis].numpy(), expected, atol=1e-4)


def test_warp_displaces_then_swirls(patch):
    canvas, h, w = patch
    offsets = 2 * torch.randn(1, 2, EDGE, EDGE, generator=torch.Generator().manual_seed(1))
    clean = torch.nan_to_num(canvas)
    out = inside(warp(clean, h, w, strength=torch.zeros(1), offsets=offsets), h, w)
    moved = inside(offsets, h, w).double().numpy() + np.indices((int(h), int(w)))
    for channel in range(3):
        values = inside(canvas, h, w)[channel].double().numpy()
        expected = map_coordinates(values, moved, order=1, mode="nearest")
        np.testing.assert_allclose(out[channel].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("quality", [1, 10, 20, 30, 50, 90])
@pytest.mark.parametrize("shape", [(48, 48), (33, 21), (14, 14)])
def test_jpeg_is_pillows(quality, shape):
    h, w = shape
    y, x = torch.meshgrid(torch.arange(h) / h, torch.arange(w) / w, indexing="ij")
    smooth = torch.stack([y, x, 0.5 + 0.5 * torch.sin(9 * x * y)])
    noise = 0.1 * torch.randn(3, h, w, generator=torch.Generator().manual_seed(0))
    pixels = torch.round((smooth + noise).clamp(0, 1) * 255)
    canvas = torch.zeros(1, 3, EDGE, EDGE)
    canvas[0, :, :h, :w] = pixels / 255
    out = inside(jpeg(canvas, torch.tensor([h]), torch.tensor([w]), torch.tensor([quality])), h, w)
    buffer = io.BytesIO()
    array = pixels.permute(1, 2, 0).numpy().astype(np.uint8)
    Image.fromarray(array).save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
    expected = np.asarray(Image.open(buffer)).transpose(2, 0, 1) / 255
    error = np.abs(out.numpy() - expected)
    # libjpeg computes in integers; a coefficient on the edge of rounding may fall either way.
    assert error.mean() < 0.006
    lost = np.abs(array.transpose(2, 0, 1) / 255 - expected).mean()
    assert error.mean() < 0.2 * lost


def test_colour_factors_are_torchvisions():
    canvas = torch.rand(4, 3, EDGE, EDGE, generator=torch.Generator().manual_seed(0))
    h, w = torch.tensor([48, 20, 11, 48]), torch.tensor([48, 33, 7, 9])
    one, zero = torch.ones(4), torch.zeros(4)
    neutral = {"brightness": one, "contrast": one, "saturation": one, "hue": zero}
    factors = torch.tensor([0.0, 0.6, 1.4, 2.0])
    cases = {
        "brightness": (factors, tvf.adjust_brightness),
        "saturation": (factors, tvf.adjust_saturation),
        "hue": (torch.tensor([-0.5, -0.2, 0.1, 0.5]), tvf.adjust_hue),
        "contrast": (factors, tvf.adjust_contrast),
    }
    for name, (values, oracle) in cases.items():
        out = adjust_colour(canvas, h, w, **{**neutral, name: values})
        for i in range(4):
            expected = oracle(canvas[i, :, : h[i], : w[i]], float(values[i]))
            got = out[i, :, : h[i], : w[i]]
            torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)
    same = adjust_colour(canvas, h, w, **neutral)
    torch.testing.assert_close(same, canvas, atol=1e-5, rtol=0)


def scalar_perlin(angles, scale, y, x):
    """Perlin's noise of one point, as told: four corners, dot products, fade, lerp."""
    octaves, size = angles.shape[:2]
    total = 0.0
    for o in range(octaves):
        py, px = y * 2**o / scale, x * 2**o / scale
        i, j = math.floor(py), math.floor(px)
        fy, fx = py - i, px - j

        def dot(di, dj, o=o, i=i, j=j, fy=fy, fx=fx):
            turn = 2 * math.pi * float(angles[o, (i + di) % size, (j + dj) % size])
            return math.sin(turn) * (fy - di) + math.cos(turn) * (fx - dj)

        sy, sx = (t**3 * (t * (t * 6 - 15) + 10) for t in (fy, fx))
        top = dot(0, 0) * (1 - sx) + dot(0, 1) * sx
        bottom = dot(1, 0) * (1 - sx) + dot(1, 1) * sx
        total += (top * (1 - sy) + bottom * sy) / 2**o
    return total


def test_perlin_noise_is_perlins():
    angles = torch.rand(2, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([7.0, 33.0])
    noise = perlin_noise(angles, scale, EDGE)
    for i in range(2):
        for y, x in ((0, 0), (3, 5), (17, 46), (47, 47), (31, 2)):
            expected = scalar_perlin(angles[i], float(scale[i]), y, x)
            assert float(noise[i, y, x]) == pytest.approx(expected, abs=1e-4)
    assert -2 < float(noise.min()) < -0.2 < 0.2 < float(noise.max()) < 2


def test_masked_colour_fills_above_the_threshold_of_the_patchs_own_range(patch):
    canvas, h, w = patch
    noise = 5 * torch.rand(1, EDGE, EDGE, generator=torch.Generator().manual_seed(2)) - 1
    noise[0, int(h) :], noise[0, :, int(w) :] = 99.0, -99.0  # beyond the patch nothing counts
    colour = torch.tensor([[0.1, 0.2, 0.3]])
    out = inside(masked_colour(canvas, h, w, noise, torch.tensor([0.6]), colour), h, w)
    own = noise[0, : int(h), : int(w)]
    filled = (own - own.min()) / (own.max() - own.min()) > 0.6
    assert filled.any()
    assert (out.permute(1, 2, 0)[filled] == colour).all()
    assert torch.equal(out[:, ~filled], inside(canvas, h, w)[:, ~filled])


def test_lines_join_their_ends_without_gaps():
    canvas = torch.zeros(1, 3, EDGE, EDGE)
    ends = torch.tensor([[[2, 3, 40, 17], [5, 40, 5, 4], [30, 30, 30, 30], [0, 0, 47, 47]]])
    colours = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]])
    out = lines(canvas, ends, colours, torch.tensor([3]))[0]
    assert out[:, 2, 3].tolist() == out[:, 40, 17].tolist() == [1, 0, 0]
    assert out[:, 5, 4:41].sum(dim=1).tolist() == [0, 37, 0]
    assert out[:, 30, 30].tolist() == [0, 0, 1]
    assert not out[:, 0, 0].any()  # the fourth is not drawn
    red = out[0].nonzero()
    assert len(red) + int(out[1, 4, 4] > 0) >= 38  # a pixel in each of rows 2..40 but where green
    for row in range(3, 41):
        here, above = red[red[:, 0] == row], red[red[:, 0] == row - 1]
        if len(here) and len(above):
            assert (here[:, None, 1] - above[None, :, 1]).abs().min() <= 1
    later = lines(canvas, ends[:, [0, 0]], colours[:, [0, 1]], torch.tensor([2]))[0]
    assert not later[0].any()  # a later line covers an earlier one


def test_rectangles_fill_their_pixels_and_no_others():
    canvas = torch.full((2, 3, EDGE, EDGE), 0.5)
    boxes = torch.tensor([[[2, 3, 10, 5], [8, 4, 6, 20]]] * 2)
    colours = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]] * 2)
    out = rectangles(canvas, boxes, colours, torch.tensor([1, 2]))
    expected = np.full((2, 3, EDGE, EDGE), 0.5)
    expected[:, :, 2:12, 3:8] = np.array([1, 0, 0])[:, None, None]
    expected[1, :, 8:14, 4:24] = np.array([0, 1, 0])[:, None, None]
    np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.parametrize("degrees", [-90, -37, 0, 20, 90])
def test_rotation_is_pillows(degrees):
    h, w = 30, 44
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    canvas = torch.zeros(1, 3, EDGE, EDGE)
    canvas[0, :, :h, :w] = torch.stack([y, x, 0.5 + 0.5 * torch.sin(5 * x)])
    size = torch.tensor([h]), torch.tensor([w])
    steps = torch.arange(EDGE, dtype=torch.float32)[None]
    rows, columns, support = rotation_points(
        steps, steps, *size, torch.tensor([math.radians(degrees)])
    )
    out = sample(canvas, rows, columns, *size)[0, :, :h, :w]
    assert not support[0, h:].any()
    assert not support[0, :, w:].any()
    support = support[0, :h, :w].numpy()
    image = Image.fromarray((canvas[0, :, :h, :w].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    turned = image.convert("RGBA").rotate(degrees, expand=True, resample=Image.Resampling.BILINEAR)
    expected = np.asarray(turned.resize((w, h), Image.Resampling.BILINEAR), np.float32) / 255
    agree = support == (expected[..., 3] > 0.5)
    assert agree.mean() > 0.95  # Pillow rounds the rotated box to whole pixels
    certain = support & (expected[..., 3] == 1)
    assert certain.sum() > 0.35 * h * w
    difference = np.abs(out.permute(1, 2, 0).numpy() - expected[..., :3])[certain]
    assert difference.mean() < 0.02


def test_rotated_support_is_exact():
    # At 45 degrees a square keeps the square of half its area.
    steps = torch.arange(40, dtype=torch.float32)[None]
    size = torch.tensor([40])
    _, _, support = rotation_points(steps, steps, size, size, torch.tensor([math.pi / 4]))
    assert float(support.float().mean()) == pytest.approx(0.5, abs=0.03)
    for quarter in (-math.pi / 2, 0.0, math.pi / 2):
        _, _, full = rotation_points(steps, steps, size, size, torch.tensor([quarter]))
        assert full.all()


def test_paste_writes_the_support_and_nothing_else():
    images, patch = torch.rand(2, 3, 20, 24), torch.rand(2, 3, 6, 5)
    support = torch.rand(2, 6, 5) < 0.5
    before = torch.zeros(2, 20, 24, dtype=torch.bool)
    before[:, 0, 0] = True
    y, x = torch.tensor([0, 14]), torch.tensor([19, 7])
    out, mask = paste(images, before, patch, support, y, x, torch.ones(2))
    expected, marked = images.clone(), before.clone()
    for b in range(2):
        for i in range(6):
            for j in range(5):
                if support[b, i, j]:
                    expected[b, :, y[b] + i, x[b] + j] = patch[b, :, i, j]
                    marked[b, y[b] + i, x[b] + j] = True
    assert torch.equal(out, expected)
    assert torch.equal(mask, marked)
