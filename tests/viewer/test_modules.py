"""The page's modules, run by node, against the Python they repeat."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from robustad.conformal import ConformalScores
from robustad.geometry import Geometry
from robustad.images import read_image
from robustad.verdict import Evidence, Policy, binary_entropy

GEOMETRIES = (
    (Geometry(size=28, multiple=14), 50, 75),
    (Geometry(size=28, multiple=14), 33, 20),
    (Geometry(size=48, multiple=8), 48, 64),
    (Geometry(size=50, multiple=8), 20, 33),
    (Geometry(size=32, multiple=8, square=True), 61, 40),
    (Geometry(size=35, multiple=7), 700, 480),
    (Geometry(size=9, multiple=2), 6, 11),  # 16.5 columns: to the even number
)


def test_images_are_prepared_and_maps_restored_alike(node):
    rng = np.random.default_rng(0)
    cases, wanted = [], []
    for geometry, height, width in GEOMETRIES:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        prepared = geometry.apply(pixels.astype(np.float32) / np.float32(255))
        anomaly_map = rng.random(prepared.shape[:2], np.float32)
        restored = geometry.restore(anomaly_map, height, width)
        wanted.append((prepared.transpose(2, 0, 1), restored))
        cases.append(
            {
                "geometry": vars(geometry),
                "height": height,
                "width": width,
                "pixels": pixels.ravel().tolist(),
                "map": anomaly_map.ravel().tolist(),
            }
        )
    found = node(
        """
        const { Geometry } = await import(PAGE + "geometry.js");
        print(cases.map(({ geometry, height, width, pixels, map }) => {
          const made = new Geometry(geometry);
          const prepared = made.apply({ height, width, pixels: Uint8Array.from(pixels) });
          return { prepared, restored: made.restore(Float32Array.from(map), height, width) };
        }));
        """,
        cases,
    )
    for (prepared, restored), one in zip(wanted, found, strict=True):
        assert (one["prepared"]["height"], one["prepared"]["width"]) == prepared.shape[1:]
        # a weight may be rounded otherwise, as sums of weights are formed in another order
        made = np.float32(one["prepared"]["data"]).reshape(prepared.shape)
        np.testing.assert_allclose(made, prepared, rtol=0, atol=2.5e-7)
        made = np.float32(one["restored"]).reshape(restored.shape)
        np.testing.assert_allclose(made, restored, rtol=0, atol=2.5e-7)


def test_a_strip_is_refused(node):
    found = node(
        """
        const { Geometry } = await import(PAGE + "geometry.js");
        try { new Geometry({ size: 448, multiple: 14, square: false }).resized(10, 4000); }
        catch (error) { print([error.name, error.message]); }
        """
    )
    assert found[0] == "InputError"
    assert "10 x 4000 pixels would be resized" in found[1]


def policies(rng, count):
    def maybe(low, high, share=0.6):
        return float(rng.uniform(low, high)) if rng.random() < share else None

    for _ in range(count):
        at = maybe(0.0, 0.5)
        defer = None if at is None else maybe(at + 0.01, 0.9)
        yield Policy(
            threshold=float(rng.uniform(0.05, 0.95)),
            entropy_threshold=maybe(0.0, 0.69),
            p_value_threshold=at,
            p_value_defer=defer,
            anomaly_threshold=maybe(0.0, 0.5),
            suspicion_threshold=maybe(0.01, 0.5),
        )


def test_verdicts_are_those_of_the_policy(node):
    rng = np.random.default_rng(1)
    values = np.array([0.0, 0.1, 0.25, 0.5, 0.75, 1.0, np.nan])
    cases, wanted = [], []
    for policy in policies(rng, 300):
        known = {name: float(rng.choice(values)) for name in ("p", "q", "low", "anomaly")}
        cases.append({"policy": policy.to_dict(), "known": list(known.values())})
        columns = [np.array([value]) for value in known.values()]
        wanted += policy.decide(Evidence(**dict(zip(
            ("probability", "p_value", "low_p_value", "anomaly_p_value"), columns, strict=True
        ))))  # fmt: skip
    found = node(
        """
        const { decide } = await import(PAGE + "policy.js");
        print(cases.map(({ policy, known: [probability, pValue, lowPValue, anomalyPValue] }) =>
          decide(policy, { probability, pValue, lowPValue, anomalyPValue })));
        """,
        cases,
    )
    assert set(found) == {"accept", "reject", "defer", "uncalibrated"}
    assert found == [str(verdict) for verdict in wanted]


def test_p_values_and_entropies_are_the_same(node):
    rng = np.random.default_rng(2)
    normal = rng.random(19).astype(np.float32)
    conformal = ConformalScores(normal, anomalous=normal[:7] + np.float32(0.5))
    scores = np.concatenate([normal[:5], rng.random(5).astype(np.float32), [np.float32(9)]])
    cases = {"scores": scores.tolist(), "conformal": conformal.to_dict()}
    found = node(
        """
        const { binaryEntropy, evidence } = await import(PAGE + "policy.js");
        print(cases.scores.map((score) => {
          const { pValue, lowPValue, anomalyPValue } = evidence(score, 0.5, cases.conformal);
          const none = evidence(score, 0.5, null);
          return [pValue, lowPValue, anomalyPValue, binaryEntropy(score % 1), none.pValue];
        }));
        """,
        cases,
    )
    columns = list(zip(*found, strict=True))
    assert list(columns[0]) == conformal.p_values(scores).tolist()
    assert list(columns[1]) == conformal.low_p_values(scores).tolist()
    assert list(columns[2]) == conformal.anomaly_p_values(scores).tolist()
    np.testing.assert_allclose(columns[3], binary_entropy(scores.astype(float) % 1), rtol=1e-14)
    assert set(columns[4]) == {"NaN"}


def encoded(samples, colour, depth, *, interlaced=False, palette=None, filters=(0, 1, 2, 3, 4)):
    """A PNG file (H, W, C), lines in turn by each filter: Pillow writes no interlaced ones."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(
            ">I", zlib.crc32(kind + body)
        )  # fmt: skip

    height, width, channels = samples.shape
    step = max(1, channels * depth // 8)
    passes = ((0, 0, 1, 1),)
    if interlaced:
        passes = (
            (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
            (0, 1, 1, 2),
        )  # fmt: skip
    raw = b""
    for x, y, step_x, step_y in passes:
        part = samples[y::step_y, x::step_x]
        if not part.size:
            continue
        above = None
        for number, line in enumerate(part):
            values = line.ravel()
            if depth == 16:
                packed = values.astype(">u2").tobytes()
            elif depth == 8:
                packed = values.astype(np.uint8).tobytes()
            else:
                bits = (values[:, None] >> np.arange(depth - 1, -1, -1)) & 1
                packed = np.packbits(bits.astype(np.uint8).ravel()).tobytes()
            raw += filtered(packed, above, step, filters[number % len(filters)])
            above = packed
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    body = zlib.compress(raw)
    parts = [chunk(b"IHDR", header)]
    if palette is not None:
        parts.append(chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
    parts += [chunk(b"IDAT", body[:40]), chunk(b"IDAT", body[40:]), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def filtered(line, above, step, kind):
    above = above or bytes(len(line))
    out = bytearray([kind])
    for i, value in enumerate(line):
        left = line[i - step] if i >= step else 0
        up, corner = above[i], above[i - step] if i >= step else 0
        guess = left + up - corner
        nearest = min((left, up, corner), key=lambda one: abs(guess - one))
        out.append((value - (0, left, up, (left + up) // 2, nearest)[kind]) % 256)
    return bytes(out)


@pytest.mark.parametrize("interlaced", [False, True])
def test_png_files_are_read_as_pillow_reads_them(node, tmp_path, interlaced):
    rng = np.random.default_rng(3)
    kinds = [(0, depth, 1) for depth in (1, 2, 4, 8, 16)]
    kinds += [(3, depth, 1) for depth in (1, 2, 4, 8)]
    kinds += [(2, 8, 3), (2, 16, 3), (4, 8, 2), (4, 16, 2), (6, 8, 4), (6, 16, 4)]
    paths = []
    for colour, depth, channels in kinds:
        for height, width in ((13, 21), (2, 3)):
            samples = rng.integers(0, 2**depth, (height, width, channels))
            palette = rng.integers(0, 256, (2**depth, 3)) if colour == 3 else None
            path = tmp_path / f"{colour}_{depth}_{height}.png"
            path.write_bytes(
                encoded(samples, colour, depth, interlaced=interlaced, palette=palette)
            )
            paths.append(path)
    check_read_alike(node, paths)


def check_read_alike(node, paths):
    found = node(
        """
        const { readFileSync } = await import("node:fs");
        const { decodeExactly } = await import(PAGE + "decode.js");
        const all = await Promise.all(cases.map((path) => decodeExactly(readFileSync(path), path)));
        const { toFloats } = await import(PAGE + "geometry.js");
        print(all.map(({ height, width, pixels }) => ({
          height, width, pixels: pixels instanceof Uint8Array ? toFloats(pixels) : pixels,
        })));
        """,
        [str(path) for path in paths],
    )
    for path, one in zip(paths, found, strict=True):
        wanted = read_image(path)
        assert (one["height"], one["width"]) == wanted.shape[:2], path.name
        pixels = np.float32(one["pixels"]).reshape(wanted.shape)
        np.testing.assert_array_equal(pixels, wanted, err_msg=path.name)


def test_files_of_a_folder_are_read_alike(node, tmp_path, photographs):
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / f"{orientation}.png", exif=exif)
    deep = rng.integers(0, 65536, (5, 7), dtype=np.uint16)
    (tmp_path / "deep.pgm").write_bytes(
        b"P5\n# from a camera\n7 5\n65535\n" + deep.astype(">u2").tobytes()
    )
    (tmp_path / "grey.pgm").write_bytes(b"P5 7 5 255\n" + pixels[..., 0].tobytes())
    own = [path for path in photographs if path.suffix in (".png", ".ppm")]
    check_read_alike(node, [*sorted(tmp_path.iterdir()), *own])


def test_damaged_images_are_refused(node, tmp_path):
    rng = np.random.default_rng(5)
    whole = encoded(rng.integers(0, 256, (9, 9, 3)), 2, 8)
    flipped = bytearray(whole)
    flipped[-30] ^= 1
    header = bytearray(whole[:33])
    header[24] = 3  # a depth that there is not
    header[29:33] = struct.pack(">I", zlib.crc32(bytes(header[12:29])))
    short = encoded(rng.integers(0, 256, (2, 9, 3)), 2, 8)
    grown = short[:20] + struct.pack(">I", 4) + short[24:29]
    grown += struct.pack(">I", zlib.crc32(grown[12:29])) + short[33:]
    files = {
        "cut.png": (whole[:-40], "truncated"),
        "flipped.png": (bytes(flipped), "a wrong checksum in IDAT"),
        "header.png": (bytes(header) + whole[33:], "no header"),
        "short.png": (grown, "its pixels end too early"),
        "cut.ppm": (b"P6 4 4 255\n" + bytes(47), "truncated, 48 bytes of pixels expected"),
        "ten.ppm": (b"P6 1 1 1023\n" + bytes(6), "got up to 1023"),
        "none.ppm": (b"P6 x", "no header"),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    found = node(
        """
        const { readFileSync } = await import("node:fs");
        const { decodeExactly } = await import(PAGE + "decode.js");
        const said = [];
        for (const [path, name] of cases) {
          try { await decodeExactly(readFileSync(path), name); said.push("nothing"); }
          catch (error) { said.push(`${error.name}: ${error.message}`); }
        }
        print(said);
        """,
        [(str(tmp_path / name), name) for name in files],
    )
    for (name, (_, reason)), message in zip(files.items(), found, strict=True):
        assert message.startswith(f"InputError: {name}: "), message
        assert reason in message
