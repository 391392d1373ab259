"""Pseudo-anomalies for a batch of 16 images of 224 x 224, against a loop over single images.

`published loop` restates what was published, one image at a time with Pillow and scipy: boxes are
found by walking over the foreground pixel by pixel, Perlin noise is asked for a pixel at a time
(its values are computed at once beforehand, which is in the peer's favour). `tidy loop` is the same
without either, as one would write a loop today. Processor seconds of the process, in `extra_info`,
are the figure to compare on a shared machine.
"""

import io
import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from scipy.ndimage import binary_dilation, gaussian_filter, map_coordinates

from robustad.pseudo.levels import COUNTS, ERASE_ASPECT, KNOWN, MOST_DRAWN, RANGES

BATCH, SIDE, LOW, HIGH = 16, 224, 14, 86
Pixels = npt.NDArray[np.uint8]
Rng = np.random.Generator


def between(rng: Rng, name: str, level: int) -> float:
    return float(rng.uniform(*RANGES[name][level]))


def count(rng: Rng, name: str, level: int) -> int:
    low, high = COUNTS[name][level]
    return int(rng.integers(low, high + 1))


def sampled(patch: Pixels, y: Any, x: Any, mode: str) -> Pixels:
    channels = [map_coordinates(patch[..., c], (y, x), order=1, mode=mode) for c in range(3)]
    return np.stack(channels, axis=-1)


def colour(patch: Pixels, level: int, rng: Rng) -> Pixels:
    image = Image.fromarray(patch)
    for name, change in (
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ):
        spread = between(rng, name, level)
        image = change(image).enhance(rng.uniform(1 - spread, 1 + spread))
    spread = between(rng, "hue", level)
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(round(255 * rng.uniform(-spread, spread)) % 256)
    return np.array(Image.fromarray(hsv, "HSV").convert("RGB"))


def elastic(patch: Pixels, level: int, rng: Rng) -> Pixels:
    amplitude = between(rng, "elastic", level)
    dy, dx = (
        gaussian_filter(rng.uniform(-1, 1, patch.shape[:2]), 3.0) * amplitude for _ in range(2)
    )
    y, x = np.indices(patch.shape[:2])
    return sampled(patch, y + dy, x + dx, "reflect")


def swirl(patch: Pixels, level: int, rng: Rng) -> Pixels:
    height, width = patch.shape[:2]
    y, x = np.indices((height, width), dtype=float)
    dy, dx = y - height // 2, x - width // 2
    falloff = np.exp(-(dy**2 + dx**2) / (2 * max(1, min(height, width) // 3) ** 2))
    angle = between(rng, "swirl", level) * falloff
    new_y = height // 2 + dx * np.sin(angle) + dy * np.cos(angle)
    new_x = width // 2 + dx * np.cos(angle) - dy * np.sin(angle)
    return sampled(patch, new_y, new_x, "nearest")


def blur(patch: Pixels, level: int, rng: Rng) -> Pixels:
    radius = between(rng, "blur", level)
    return np.array(Image.fromarray(patch).filter(ImageFilter.GaussianBlur(radius)))


def jpeg(patch: Pixels, level: int, rng: Rng) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(patch).save(buffer, format="JPEG", quality=count(rng, "jpeg", level))
    return np.array(Image.open(buffer))


def lines(patch: Pixels, level: int, rng: Rng) -> Pixels:
    image = Image.fromarray(patch)
    pen = ImageDraw.Draw(image)
    for _ in range(count(rng, "lines", level)):
        x, y = rng.integers(0, patch.shape[1], 2), rng.integers(0, patch.shape[0], 2)
        fill = tuple(int(v) for v in 255 * rng.integers(0, 2, 3))
        pen.line([(int(x[0]), int(y[0])), (int(x[1]), int(y[1]))], fill=fill)
    return np.array(image)


def perlin(patch: Pixels, level: int, rng: Rng, fill: Any = None) -> Pixels:
    fill = fill or fill_above
    noise = np.zeros(patch.shape[:2])
    scale = between(rng, "perlin_scale", level)
    for octave in range(6):
        y, x = (axis * 2**octave / scale for axis in np.indices(noise.shape))
        i, j = np.floor(y).astype(int), np.floor(x).astype(int)
        turn = rng.uniform(0, 2 * math.pi, (i.max() + 2, j.max() + 2))
        for di in (0, 1):
            for dj in (0, 1):
                dy, dx = y - i - di, x - j - dj
                ny, nx = 1 - np.abs(dy), 1 - np.abs(dx)
                fade = ny**3 * (ny * (ny * 6 - 15) + 10) * nx**3 * (nx * (nx * 6 - 15) + 10)
                angle = turn[i + di, j + dj]
                noise += fade * (np.sin(angle) * dy + np.cos(angle) * dx) / 2**octave
    return fill(patch, noise, level, rng)


def perlin_by_pixel(patch: Pixels, level: int, rng: Rng) -> Pixels:
    def recorded(patch: Pixels, noise: Any, level: int, rng: Rng) -> Pixels:
        values = np.zeros(noise.shape, np.float32)
        for i in range(noise.shape[0]):
            for j in range(noise.shape[1]):
                values[i, j] = noise.item(i, j)
        return fill_above(patch, values, level, rng)

    return perlin(patch, level, rng, recorded)


def fill_above(patch: Pixels, noise: Any, level: int, rng: Rng) -> Pixels:
    noise = 255 * (noise - noise.min()) / max(np.ptp(noise), 1e-12)
    patch = patch.copy()
    patch[noise > count(rng, "perlin_threshold", level)] = rng.integers(0, 255, 3)
    return patch


def erasing(patch: Pixels, level: int, rng: Rng) -> Pixels:
    patch, (height, width) = patch.copy(), patch.shape[:2]
    area = between(rng, "erase_ratio", level) * height * width
    for _ in range(count(rng, "erase_rectangles", level)):
        aspect = rng.uniform(*ERASE_ASPECT)
        h, w = int(math.sqrt(area / aspect)), int(math.sqrt(area * aspect))
        y, x = rng.integers(0, max(1, height - h + 1)), rng.integers(0, max(1, width - w + 1))
        patch[y : y + h, x : x + w] = rng.integers(0, 255, 3)
    return patch


TRANSFORMATIONS = {
    "elastic": elastic,
    "swirl": swirl,
    "blur": blur,
    "jpeg": jpeg,
    "lines": lines,
    "perlin": perlin,
    "erasing": erasing,
}


def places(area: npt.NDArray[np.bool_], rng: Rng) -> tuple[int, int, int, int, int, int]:
    """Try sizes and places until two boxes lie in the foreground."""
    inside = np.argwhere(area)
    for _ in range(250):
        h, w = rng.integers(LOW, HIGH + 1, 2)
        (y, x), (v, u) = inside[rng.integers(0, len(inside), 2)]
        boxes = [area[b : b + h, a : a + w] for b, a in ((y, x), (v, u))]
        if all(box.shape == (h, w) and box.all() for box in boxes):
            return y, x, v, u, h, w
    (y, x), (v, u) = np.minimum(inside[rng.integers(0, len(inside), 2)], SIDE - LOW)
    return y, x, v, u, LOW, LOW


def places_by_pixel(area: npt.NDArray[np.bool_], rng: Rng) -> tuple[int, int, int, int, int, int]:
    """Walk right and down from two pixels, try sizes within both runs; up to 250 pairs."""
    inside = np.argwhere(area)

    def run(y: int, x: int, dy: int, dx: int) -> int:
        length = 0
        while y < SIDE and x < SIDE and area[y, x]:
            y, x, length = y + dy, x + dx, length + 1
        return length

    for _ in range(250):
        corners = inside[rng.integers(0, len(inside), 2)]
        most = [min(run(y, x, dy, dx) for y, x in corners) for dy, dx in ((1, 0), (0, 1))]
        for _ in range(11):
            h, w = int(rng.integers(0, most[0] + 1)), int(rng.integers(0, most[1] + 1))
            if all(area[y : y + h, x : x + w].all() for y, x in corners):
                break
        else:
            continue
        if min(h, w) >= LOW:
            (y, x), (v, u) = corners
            return y, x, v, u, h, w
    (y, x), (v, u) = np.minimum(inside[rng.integers(0, len(inside), 2)], SIDE - LOW)
    return y, x, v, u, LOW, LOW


def by_published_loop(images: Any, foreground: Any, seeds: list[int]) -> tuple[Any, Any]:
    slow = {**TRANSFORMATIONS, "perlin": perlin_by_pixel}
    return by_loop(images, foreground, seeds, places_by_pixel, slow)


def by_loop(
    images: Any,
    foreground: Any,
    seeds: list[int],
    find: Any = places,
    transformations: dict[str, Any] = TRANSFORMATIONS,
) -> tuple[Any, Any]:
    import torch

    made, masks = [], []
    for image, area, seed in zip(images, foreground, seeds, strict=True):
        rng = np.random.default_rng(seed)
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        area = binary_dilation(area.numpy(), np.ones((3, 3)), iterations=10)
        y, x, v, u, h, w = find(area, rng)
        patch = pixels[y : y + h, x : x + w].copy()
        level = int(rng.choice(3, p=(0.2, 0.2, 0.6)))
        picked = rng.permutation(KNOWN[level])[: rng.integers(0, MOST_DRAWN[level] + 1)]
        chosen = [transformations[name] for name in picked]
        chosen.insert(rng.integers(0, len(chosen) + 1), colour)
        for change in chosen:
            patch = change(patch, level, rng)
        turned = Image.fromarray(patch).convert("RGBA").rotate(rng.uniform(-90, 90), expand=True)
        turned = turned.resize((int(w), int(h)), Image.Resampling.BICUBIC)
        support = np.asarray(turned)[..., 3] > 0
        mask = np.zeros((SIDE, SIDE), bool)
        mask[v : v + h, u : u + w] = support
        pixels[mask] = np.asarray(turned)[..., :3][support]
        made.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
        masks.append(torch.from_numpy(mask))
    return torch.stack(made), torch.stack(masks)


def by_robustad(images: Any, foreground: Any, seeds: list[int]) -> tuple[Any, Any]:
    from robustad.pseudo import PseudoAnomalies, PseudoConfig

    generator = PseudoAnomalies(PseudoConfig(dilate=10), SIDE, bounds=(LOW, HIGH))
    made = generator(images, foreground, seeds)
    return made.images, made.mask


IMPLEMENTATIONS = {
    "robustad": by_robustad,
    "published loop": by_published_loop,
    "tidy loop": by_loop,
}


@pytest.fixture(scope="module", params=["whole", "disc", "bar"])
def batch(request: pytest.FixtureRequest) -> tuple[Any, Any, str]:
    """Images in whole bytes, and a foreground: everything, a compact object, a thin slanted one."""
    import torch

    from robustad.data.surfaces import Surfaces
    from robustad.geometry import Geometry

    geometry = Geometry(size=SIDE, multiple=1, square=True)
    train = Surfaces(train=BATCH, test_good=1, per_defect=1).load("tray").train
    pixels = np.stack([geometry.apply(sample.read()) for sample in train])
    images = torch.from_numpy(np.rint(pixels * 255) / 255).permute(0, 3, 1, 2).float()
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    area = {
        "whole": np.ones((SIDE, SIDE), bool),
        "disc": y**2 + x**2 < 60**2,
        "bar": (np.abs(y - x) < 12) & (y**2 + x**2 < 90**2),
    }[request.param]
    foreground = torch.from_numpy(area).expand(BATCH, -1, -1).contiguous()
    return images.contiguous(), foreground, request.param


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_pseudo_anomalies(benchmark: Any, impl: str, batch: tuple[Any, Any, str]) -> None:
    images, foreground, kind = batch
    benchmark.group = f"pseudo-anomalies, {BATCH} images of {SIDE} x {SIDE}, foreground {kind}"
    make, seconds = IMPLEMENTATIONS[impl], []

    def one_batch(start: int = 0) -> tuple[Any, Any]:
        began = time.process_time()
        out = make(images, foreground, list(range(start, start + BATCH)))
        seconds.append(time.process_time() - began)
        return out

    starts = iter(range(0, 10**6, BATCH))
    rounds = 30 if impl == "robustad" else 12
    made, mask = benchmark.pedantic(
        one_batch, setup=lambda: ((next(starts),), {}), rounds=rounds, warmup_rounds=2
    )
    outside = ~mask[:, None].expand_as(images)
    assert bool((made[outside] - images[outside]).abs().max() < 1e-6)
    assert bool(mask.flatten(1).any(dim=1).all())
    assert float((made != images).any(dim=1)[mask].float().mean()) > 0.8
    benchmark.extra_info.update(
        items=BATCH,
        device="cpu",
        dtype="float32",
        cpu_seconds_a_batch=float(np.median(seconds[2:])),
    )
