import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps

from robustad.errors import InputError
from robustad.images import image_files, iter_images, iter_pixels, read_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
GREY = RGB[..., 0].copy()
DEEP = RNG.integers(0, 65536, (6, 9)).astype(np.uint16)
EXPECTED = RGB.astype(np.float64) / 255
LOSSLESS = ["bmp", "png", "ppm", "tif", "tiff"]


def grey(values):
    return np.repeat(np.asarray(values, np.float64)[..., None], 3, axis=-1)


def png(samples, colour_type):
    """A 16-bit PNG, which Pillow cannot write in colour."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def close(image, expected):
    pixels = read_image(image)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert pixels.shape == (*np.shape(expected)[:2], 3)
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-7)


# The same picture by all roads


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_files(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path)
    close(path, EXPECTED)
    close(str(path), EXPECTED)
    close(Image.open(path), EXPECTED)


def test_lossless_webp(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.webp", lossless=True)
    close(tmp_path / "a.webp", EXPECTED)


def test_jpeg_is_what_pillow_decodes(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.JPG", format="JPEG")
    with Image.open(tmp_path / "a.JPG") as image:
        close(tmp_path / "a.JPG", np.asarray(image) / 255)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_float_arrays(dtype):
    tolerance = 1e-7 if dtype != np.float16 else 2**-11
    pixels = read_image((RGB / 255).astype(dtype))
    np.testing.assert_allclose(pixels, EXPECTED, rtol=0, atol=tolerance)


def test_every_8_bit_value_is_the_same_by_all_roads():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = (np.arange(256) / 255).astype(np.float32).reshape(16, 16)
    tensor = torch.from_numpy(values)
    for image in (
        values,
        Image.fromarray(values),
        expected,
        values / 255,
        tensor[None],
        tensor[None] / 255,
        tensor[None].double() / 255,
        values[..., None],
        np.stack([values] * 3, axis=-1),
    ):
        pixels = read_image(image)
        assert all(np.array_equal(pixels[..., channel], expected) for channel in range(3))


def test_arrays_of_every_layout():
    alpha = np.zeros((6, 9, 1), np.uint8)
    close(RGB, EXPECTED)
    close(np.concatenate([RGB, alpha], axis=-1), EXPECTED)
    close(GREY, grey(GREY / 255))
    close(GREY[..., None], grey(GREY / 255))
    close(RGB.astype(np.uint16) * 257, EXPECTED)
    close(DEEP, grey(DEEP / 65535))
    close(DEEP.astype(">u2"), grey(DEEP / 65535))
    close(GREY > 100, grey(GREY > 100))
    close(RGB[::-1, ::2], EXPECTED[::-1, ::2])
    close(np.asfortranarray(RGB), EXPECTED)


def test_tensors_of_every_layout():
    chw = torch.from_numpy(RGB).permute(2, 0, 1)
    close(chw, EXPECTED)
    close(chw / 255, EXPECTED)
    close(torch.cat([chw, chw[:1]]), EXPECTED)
    close(chw[:1], grey(GREY / 255))
    close(chw[0], grey(GREY / 255))
    close((chw / 255).requires_grad_(), EXPECTED)
    close(torch.from_numpy(DEEP)[None], grey(DEEP / 65535))
    close(torch.from_numpy(GREY > 100)[None], grey(GREY > 100))
    for dtype in (torch.bfloat16, torch.float16):
        rounded = (chw / 255).to(dtype)
        close(rounded, rounded.double().permute(1, 2, 0).numpy())


def test_batches_are_taken_apart():
    batch = np.stack([RGB, 255 - RGB])
    tensor = torch.from_numpy(batch).permute(0, 3, 1, 2)
    for images in (batch, tensor, tensor / 255, [batch[0], batch[1]], iter(batch)):
        first, second = iter_images(images)
        np.testing.assert_allclose(first.pixels, EXPECTED, rtol=0, atol=1e-7)
        np.testing.assert_allclose(second.pixels, 1 - EXPECTED, rtol=0, atol=1e-7)
        assert (first.name, second.name) == ("image 0", "image 1")


def test_a_mixture_keeps_order_and_names(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "b.png")
    Image.fromarray(GREY).save(tmp_path / "a.png")

    def sources():
        yield np.stack([RGB, RGB])
        yield tmp_path
        yield [Image.fromarray(RGB), [torch.zeros(2, 3, 4, 5)]]
        yield Image.open(tmp_path / "b.png")

    loaded = list(iter_images(sources()))
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    assert [image.name for image in loaded] == [
        *("image 0", "image 1", a, b, "image 4", "image 5", "image 6", b)
    ]
    assert [image.pixels.shape[:2] for image in loaded] == [(6, 9)] * 5 + [(4, 5)] * 2 + [(6, 9)]


def test_images_are_decoded_one_by_one():
    def sources():
        yield RGB
        raise AssertionError("the second image was asked for too early")

    assert next(iter_images(sources())).name == "image 0"


def test_nothing_gives_nothing():
    assert list(iter_images([])) == []
    assert list(iter_images(np.zeros((0, 4, 4, 3), np.uint8))) == []


def test_the_result_is_a_copy():
    source = EXPECTED.astype(np.float32)
    read_image(source)[:] = 0
    np.testing.assert_array_equal(source, EXPECTED.astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16, np.bool_]),
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=8).flatmap(
            lambda hw: st.sampled_from([hw, (*hw, 1), (*hw, 3), (*hw, 4)])
        ),
    )
)
def test_integers_are_scaled_by_their_range(array):
    high = 1 if array.dtype == np.bool_ else np.iinfo(array.dtype).max
    expected = array[..., None] if array.ndim == 2 else array[..., :3]
    expected = np.broadcast_to(expected.astype(np.float64) / high, (*array.shape[:2], 3))
    close(array, expected)


# Pillow's modes


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_pillow_modes(mode):
    image = Image.fromarray(RGB).convert(mode)
    close(image, np.asarray(image.convert("RGB")) / 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pillow_modes_in_files(tmp_path, mode):
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / "a.png")
    close(tmp_path / "a.png", np.asarray(image.convert("RGB")) / 255)


def test_cmyk_jpeg(tmp_path):
    image = Image.new("CMYK", (9, 6), (255, 0, 0, 0))
    image.save(tmp_path / "a.jpg")
    close(tmp_path / "a.jpg", np.broadcast_to([0.0, 1.0, 1.0], (6, 9, 3)))


def test_alpha_is_dropped_not_blended():
    clear = np.concatenate([RGB, np.zeros((6, 9, 1), np.uint8)], axis=-1)
    close(Image.fromarray(clear, "RGBA"), EXPECTED)
    close(Image.fromarray(np.stack([GREY, GREY * 0], axis=-1), "LA"), grey(GREY / 255))


def test_a_transparent_palette_gives_its_colours_without_a_warning(tmp_path):
    image = Image.fromarray(RGB).quantize(16)
    image.save(tmp_path / "a.png", transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(tmp_path / "a.png", np.asarray(image.convert("RGB")) / 255)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_16_bit_modes(mode):
    order = ">u2" if mode == "I;16B" else "<u2"
    close(Image.frombytes(mode, (9, 6), DEEP.astype(order).tobytes()), grey(DEEP / 65535))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_files_keep_their_depth(tmp_path, suffix):
    Image.fromarray(DEEP).save(tmp_path / f"a.{suffix}")
    close(tmp_path / f"a.{suffix}", grey(DEEP / 65535))
    (tmp_path / "b.png").write_bytes(png(DEEP, 0))
    close(tmp_path / "b.png", grey(DEEP / 65535))


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4)])
def test_16_bit_colour_is_read_in_8_bits(tmp_path, colour_type, channels):
    samples = RNG.integers(0, 65536, (6, 9, channels)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png(samples, colour_type))
    pixels = read_image(tmp_path / "a.png")
    np.testing.assert_allclose(pixels, samples[..., :3] / 65535, atol=1 / 255)


def test_32_bit_integers_count_as_16_bit():
    close(Image.fromarray(DEEP.astype(np.int32)), grey(DEEP / 65535))
    too_high = Image.fromarray(np.array([[0, 65536]], np.int32))
    with pytest.raises(InputError, match=r"^image 0: expected integers in 0..65535, got 0..65536"):
        read_image(too_high)
    negative = Image.fromarray(np.array([[-1, 7]], np.int32))
    with pytest.raises(InputError, match=r"expected integers in 0..65535, got -1..7"):
        read_image(negative)


def test_float_mode(tmp_path):
    image = Image.fromarray((GREY / 255).astype(np.float32))
    assert image.mode == "F"
    close(image, grey(GREY / 255))
    image.save(tmp_path / "a.tiff")
    close(tmp_path / "a.tiff", grey(GREY / 255))
    with pytest.raises(InputError, match=r"expected finite values in \[0, 1\], got .*divide 8-bit"):
        read_image(Image.fromarray(GREY.astype(np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    image = Image.fromarray(RGB)
    exif = image.getexif()
    exif[0x0112] = orientation
    for suffix in ("jpg", "png", "tif", "webp"):
        path = tmp_path / f"a.{suffix}"
        image.save(path, exif=exif)
        with Image.open(path) as stored:
            expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB")) / 255
        assert expected.shape == ((6, 9, 3) if orientation <= 4 else (9, 6, 3))
        close(path, expected)
        close(Image.open(path), expected)


def test_orientation_of_16_bit_images():
    image = Image.fromarray(DEEP)
    image.getexif()[0x0112] = 6
    close(image, grey(np.rot90(DEEP, -1) / 65535))


# Folders


def test_a_folder_gives_its_image_files_by_name(tmp_path):
    for name in ("b.png", "a.JPG", "c.Tiff"):
        Image.fromarray(RGB).save(tmp_path / name)
    Image.fromarray(RGB).save(tmp_path / ".hidden.png")
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "d.png").mkdir()
    Image.fromarray(RGB).save(tmp_path / "d.png" / "inside.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    names = ["a.JPG", "b.png", "c.Tiff"]
    assert [path.name for path in image_files(tmp_path)] == names
    loaded = list(iter_images(tmp_path))
    assert [image.name for image in loaded] == [str(tmp_path / name) for name in names]
    [inside] = iter_images(tmp_path / "d.png")
    assert inside.name == str(tmp_path / "d.png" / "inside.png")


def test_symbolic_links_are_followed(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    Image.fromarray(RGB).save(real / "a.png")
    (tmp_path / "link.png").symlink_to(real / "a.png")
    (tmp_path / "folder").symlink_to(real)
    close(tmp_path / "link.png", EXPECTED)
    close(tmp_path / "folder", EXPECTED)
    assert [path.name for path in image_files(tmp_path)] == ["link.png"]


def test_a_file_of_another_suffix_is_read_when_named(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.scan", format="PNG")
    close(tmp_path / "a.scan", EXPECTED)


def test_an_alpha_channel_may_hold_anything():
    close(np.concatenate([EXPECTED, np.full((6, 9, 1), 255.0)], axis=-1), EXPECTED)


def test_eight_bits_can_be_left_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    deep = rng.integers(0, 65536, (5, 7), dtype=np.uint16)
    given = [tmp_path / "a.png", colour[..., :1], deep, colour / np.float32(255), colour > 9]
    found = dict(iter_pixels(given))
    assert [str(pixels.dtype) for pixels in found.values()] == ["uint8"] * 2 + ["float32"] * 3
    np.testing.assert_array_equal(found[str(tmp_path / "a.png")], colour)
    np.testing.assert_array_equal(found["image 1"], colour[..., :1].repeat(3, axis=2))
    for image in iter_images(given):
        pixels = found[image.name]
        expected = pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels
        assert image.pixels.dtype == np.float32
        np.testing.assert_array_equal(image.pixels, expected)
