"""Kill `robustad watch` at random while images land, and account for every image.

    python benchmarks/watch_kills.py MODEL.onnx --images 2000 --kills 20

Images are written in two halves, one in fifty is damaged. Each life of the watch ends by SIGKILL
after a random number of further lines. At the end every image has to have exactly one line in the
journal and in the table, and the score that the runtime gives it directly.
"""

import argparse
import csv
import io
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from robustad import runtime

DAMAGED_EVERY = 50


def image_bytes(rng):
    """Make a small PNG: stripes, noise, sometimes a bright square."""
    pixels = 90 + 50 * np.sin(np.arange(64) / 3 + rng.uniform(0, 6))[None, :, None]
    pixels = pixels + rng.normal(0, 8, (48, 64, 3))
    if rng.random() < 0.5:
        pixels[16:24, 20:32] = 240
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def land(folder, count, seed, pause):
    """Write images as a camera might: not in one piece."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        content = image_bytes(rng)
        if i % DAMAGED_EVERY == DAMAGED_EVERY - 1:
            content = content[: len(content) // 3]
        half = len(content) // 2
        with (folder / f"part_{i:05d}.png").open("wb") as file:
            file.write(content[:half])
            file.flush()
            time.sleep(pause)
            file.write(content[half:])


def lines_of(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def lives(model, folder, out, *, images, kills, seed, pause):
    """Run the watch until all is done, killing it on the way; how many lines each life added."""
    chance = random.Random(seed)
    command = [
        *(sys.executable, "-P", "-m", "robustad", "watch", str(folder), "--model", str(model)),
        *("--out", str(out), "--poll", "0.05", "--settle", "0.1", "--threads", "1", "--quiet"),
    ]
    journal = out / "results.jsonl"
    added = []
    for _ in range(kills):
        before = lines_of(journal)
        life = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        further = chance.randint(0, max(1, 2 * (images - before) // (kills + 1)))
        deadline = time.monotonic() + 120
        while lines_of(journal) < before + further and life.poll() is None:
            if lines_of(journal) >= images or time.monotonic() > deadline:
                break
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        if life.poll() is not None:
            raise SystemExit(f"the watch ended by itself with code {life.returncode}")
        life.send_signal(signal.SIGKILL)
        life.wait()
        added.append(lines_of(journal) - before)
    return added, command


def account(model, folder, out, added):
    """Compare journal, table and overlays with the folder."""
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    starts = [record for record in records if "key" not in record]
    records = [record for record in records if "key" in record]
    with (out / "results.csv").open(newline="") as file:
        rows = Counter(row["path"] for row in csv.DictReader(file))
    files = {path.name for path in folder.iterdir()}
    lines = Counter(record["path"] for record in records)
    loaded = runtime.load(model, threads=1)
    good = [record for record in records if "error" not in record]
    names = [folder / record["path"] for record in good[:: max(1, len(good) // 200)]]
    direct = dict(zip(names, loaded.predict(names).score.tolist(), strict=True)) if names else {}
    wrong = [
        record["path"]
        for record in good
        if folder / record["path"] in direct
        and abs(direct[folder / record["path"]] - record["score"]) > 1e-5
    ]
    drawn = {path.relative_to(out).as_posix() for path in (out / "overlays").rglob("*.png")}
    return {
        "images": len(files),
        "kills": len(added),
        "starts": len(starts),
        "lines": len(records),
        "missed": sorted(files - lines.keys()),
        "repeated": sorted(name for name, count in lines.items() if count > 1),
        "table_differs": sorted((lines - rows) + (rows - lines)),
        "damaged": sum("error" in record for record in records),
        "overlays_missing": sorted({record["overlay"] for record in good} - drawn),
        "compared_scores": len(direct),
        "wrong_scores": wrong,
        "lines_added_by_each_killed_life": added,
    }


def run(model, *, images, kills, seed=0, pause=0.005):
    """Do it all in a temporary folder; the account."""
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place) / "in", Path(place) / "out"
        folder.mkdir()
        landing = threading.Thread(target=land, args=(folder, images, seed, pause))
        landing.start()
        added, command = lives(
            model, folder, out, images=images, kills=kills, seed=seed, pause=pause
        )
        landing.join()
        subprocess.run([*command, "--once"], check=True, stderr=subprocess.DEVNULL)
        return account(model, folder, out, added)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    found = run(options.model, images=options.images, kills=options.kills, seed=options.seed)
    found["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(found, indent=1))
    bad = ("missed", "repeated", "table_differs", "overlays_missing", "wrong_scores")
    sys.exit(any(found[name] for name in bad))


if __name__ == "__main__":
    main()
