"""What `robustad.images` refuses, and in which words."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from robustad.errors import InputError
from robustad.images import SUFFIXES, iter_images, read_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
EXPECTED = RGB.astype(np.float64) / 255


# Errors


def refused(image, match):
    with pytest.raises(InputError, match=match):
        list(iter_images(image))


def test_missing_files_and_empty_folders(tmp_path):
    refused(tmp_path / "no.png", r"no\.png: no such image file or folder$")
    refused([RGB, str(tmp_path / "no.png")], r"no\.png: no such image file or folder$")
    (tmp_path / "a.txt").write_text("x")
    suffixes = ", ".join(sorted(SUFFIXES))
    refused(
        tmp_path, rf"{tmp_path.name}: expected a folder with image files \({suffixes}\), found none"
    )


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "ppm"])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, rf"a\.{suffix}: cannot be read as an image: \w+")


def test_a_truncated_image_opened_by_the_caller(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    refused(Image.open(tmp_path / "a.jpg"), r"a\.jpg: cannot be read as an image: .*truncated")
    refused(Image.open(io.BytesIO(content[:-900])), r"^image 0: cannot be read as an image: ")


def test_a_damaged_png(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", r"a\.png: cannot be read as an image: \w+")


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    refused(tmp_path / "text.png", r"text\.png: cannot be read as an image: not an image$")
    (tmp_path / "empty.jpg").touch()
    refused(tmp_path / "empty.jpg", r"empty\.jpg: cannot be read as an image: not an image$")


def test_too_many_pixels(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    refused(tmp_path / "a.png", r"a\.png: refused, too many pixels \(Image size \(54 pixels\)")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64, np.uint32, np.complex64, object])
def test_array_types(dtype):
    got = np.dtype(dtype).name
    refused(RGB.astype(dtype), f"^image 0: expected uint8, uint16, bool or float, got {got}$")


def test_tensor_types():
    refused(torch.zeros(3, 4, 4, dtype=torch.int64), "expected uint8, uint16, bool or float, got")
    refused(torch.zeros(3, 4, 4, dtype=torch.complex64), "got complex64")


def changed(value):
    array = EXPECTED.astype(np.float32)
    array[2, 3, 1] = value
    return array


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (changed(np.nan), "nan..nan"),
        (changed(np.inf), r"0\.?\d*..inf"),
        (changed(-np.inf), "-inf..[01]"),
        (changed(1.01), r"0\.?\d*..1.01"),
        (changed(-0.01), r"-0.01..[01]"),
        (RGB.astype(np.float32), r"\d+..2\d\d; divide 8-bit values by 255"),
        ((changed(0.5) - 0.45) / 0.225, r"-2.*..2\.\d+; .*leave out any mean/std"),
    ],
)
def test_floats_out_of_range(array, got):
    expected = rf"^image 0: expected finite values in \[0, 1\], got {got}"
    refused(array, expected)
    refused(torch.from_numpy(array).permute(2, 0, 1), expected)


def test_rounding_beyond_the_range_is_clipped():
    pixels = read_image(changed(1.0005))
    assert pixels.max() == 1.0
    assert read_image(changed(-0.0005)).min() == 0.0


@pytest.mark.parametrize(
    "shape", [(), (5,), (4, 5, 2), (4, 5, 5), (3, 4, 5), (0, 5, 3), (4, 0), (1, 4, 5, 3, 1)]
)
def test_array_shapes(shape):
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    refused(np.zeros(shape, np.uint8), rf"^image 0: expected an array .*\(H, W, 4\), got {got}$")


def test_tensor_shapes():
    refused(
        torch.zeros(5, 6, 3),
        r"^image 0: expected a tensor \(C, H, W\) with 1, 3 or 4 channels, got \(5, 6, 3\)",
    )
    refused(torch.zeros(2, 5, 6, 3), r"expected a tensor \(C, H, W\) .*, got \(5, 6, 3\)")
    refused(torch.zeros(3, 0, 6), "expected an array")
    refused(torch.zeros(7), r"expected an array .*, got \(7,\)")


@pytest.mark.parametrize(
    ("value", "kind"), [(3, "builtins.int"), (None, "builtins.NoneType"), ([object()], "object")]
)
def test_other_types(value, kind):
    refused(value, f"images: expected paths, PIL images, arrays or tensors, got .*{kind}$")


def test_one_image_is_one_image():
    with pytest.raises(InputError, match="expected one image, got 2"):
        read_image(np.stack([RGB, RGB]))
    with pytest.raises(InputError, match="expected one image, got 0"):
        read_image([])
