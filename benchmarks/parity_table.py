"""How far exported files agree with torch, and what they cost, by precision, engine, batch, size.

    python benchmarks/parity_table.py DETECTOR --data FOLDER --out RUN [--sizes 224 320]
    python benchmarks/render_results.py --add parity_NAME RUN [RUN ...]

DETECTOR is a detector file, or one that is fitted here to 16 normal images of the folder: `knn`,
AnomalyDINO on CNN features (`--weights`), or `masked`, AnomalyDINO with its foreground mask on a
DINOv2 ViT-S/14 whose weights are random, with layer scales of .1, if `--weights` names none. Files
that take any size are run at every size, as a square and 1.25 times as wide; beside them torch, and
for AnomalyDINO torch whose search is a product and a maximum. `target` is what
`robustad export --target` keeps for the engine at a score error of 1e-3 on images that the
comparison does not see: normal training images, and test images of both classes. Every file and
engine is kept in RUN as soon as it is finished; the same command goes on there.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from robustad import export_onnx, runtime
from robustad._files import write_text
from robustad.backbones import create
from robustad.data import Dataset, Sample, folder
from robustad.detectors import AnomalyDINO, Detector, load
from robustad.errors import VerificationError
from robustad.evaluation.hashes import detector_hash
from robustad.export import export_fastest
from robustad.export.onnx import data_file
from robustad.metrics import auroc
from robustad.ops import PackedBank
from robustad.runtime import OnnxDetector

LAYER_SCALE = 0.1  # of blocks without trained weights
REFERENCES, CHOOSING = 16, 8  # images in the bank; of each kind to choose a precision on
BATCHES = (1, 2, 4, 8)
FORM: Any = "float_nchw"  # torch is given prepared images too
TARGETS: dict[str, Any] = {"onnxruntime": "cpu", "openvino": "openvino"}
PRECISIONS = (
    *("float32", "operator", "bank bfloat16", "bank int8"),
    *("target", "target, operator", "target, bank int8"),
)
Array = npt.NDArray[Any]
# Prints the most memory that a process held which loads a file and runs it twice.
PROGRAM = """
import re, sys
from pathlib import Path
import numpy as np
from robustad import runtime
path, engine, threads, *shape = sys.argv[1:]
model = runtime.load(path, engine=engine, threads=int(threads))
x = np.random.default_rng(0).random(tuple(map(int, shape)), np.float32)
for _ in range(2):
    model.run(x)
# not ru_maxrss: a child inherits that of the process that starts it
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def fitted(name: str, data: Dataset, weights: Path | None, size: int) -> Detector:
    """The named detector, with a bank of a few normal images."""
    if name == "knn":
        detector = AnomalyDINO("resnet18", weights or "random", image_size=size)
    elif name == "masked":
        torch.manual_seed(0)
        backbone = create("vit_small_patch14_dinov2.lvd142m", weights or "random")
        if weights is None:  # timm's 1e-5 would leave every block out
            for part, values in backbone.named_parameters():
                if part.endswith("gamma"):
                    values.data.fill_(LAYER_SCALE)
        detector = AnomalyDINO(backbone, image_size=size, mask=True)
    else:
        return load(name)
    places = np.linspace(0, len(data.train) - 1, min(REFERENCES, len(data.train))).round()
    return detector.fit([data.train[i].image for i in places.astype(int)])


def spread(samples: list[Sample], count: int) -> list[Sample]:
    """Some of them, evenly spread."""
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)]


def prepared(detector: Detector, samples: list[Sample], shape: tuple[int, int] | None) -> Tensor:
    """Images (N, 3, H, W) as the detector has them, or stretched to a shape."""
    x = detector.stack([detector.geometry.apply(sample.read()) for sample in samples[:1]])
    height, width = shape or (x.shape[2], x.shape[3])
    found = []
    for sample in samples:
        one = detector.stack([detector.geometry.apply(sample.read())])
        if one.shape[2:] != (height, width):
            one = F.interpolate(one, (height, width), mode="bilinear", antialias=True)
        found.append(one.clamp(0, 1))
    return torch.cat(found)


def shapes(detector: Detector, sizes: list[int], dynamic: bool) -> list[tuple[int, int] | None]:
    """Heights and widths to run at; None is the detector's own."""
    if not dynamic:
        return [None]
    unit = detector.geometry.multiple
    edges = [(size // unit * unit, round(1.25 * size) // unit * unit) for size in sizes]
    return [(height, width) for height, wide in edges for width in (height, wide)]


@torch.inference_mode()
def in_torch(detector: Detector, x: Tensor) -> dict[str, Array]:
    """What the file gives, by torch."""
    patches = detector.patch_scores(x)
    maps = detector.anomaly_map(patches, (x.shape[2], x.shape[3]))
    return {"score": detector.aggregate(patches).numpy(), "anomaly_map": maps.numpy()}


def plain_search(queries: Tensor, bank: PackedBank, k: int) -> tuple[Tensor, Tensor]:
    """`cosine_nn` as one would write it in torch."""
    similarity = F.normalize(queries) @ bank.unit.T
    found = similarity.max(dim=1, keepdim=True) if k == 1 else similarity.topk(k)
    return (1 - found.values).clamp(0, 2), found.indices


def in_plain_torch(detector: Detector, x: Tensor) -> dict[str, Array]:
    """The same without robustad's search."""
    with mock.patch("robustad.detectors.anomaly_dino.cosine_nn", plain_search):
        return in_torch(detector, x)


def made(
    precision: str,
    engine: str,
    detector: Detector,
    choosing: list[Sample],
    path: Path,
    threads: int,
) -> dict[str, Any]:
    """Export a detector in a precision; what `export_fastest` tried, if it was asked."""
    bank: Any = precision.rpartition("bank ")[2] if "bank" in precision else "float32"
    operator = "operator" in precision
    if not precision.startswith("target"):
        export_onnx(detector, path, input=FORM, bank=bank, custom_ops=operator)
        return {}
    report = export_fastest(
        detector,
        path,
        target=TARGETS[engine],
        input=FORM,
        images=[sample.image for sample in choosing],
        bank=bank,
        custom_ops=operator,
        batch_size=4,
        threads=threads,
    )
    tried = [
        {
            "name": one.name,
            "score_error": one.parity.score_error,
            "map_error": max(one.parity.patch_error, one.parity.map_error),
            "ratio": None if one.refused else report.eager_milliseconds / one.milliseconds,
            "refused": one.refused,
        }
        for one in report.candidates
    ]
    return {"chosen": report.chosen.name, "tried": tried, "images": report.images}


def seconds(run: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compared(
    detector: Detector,
    model: OnnxDetector,
    x: Tensor,
    wanted: dict[str, Array],
    label: Array,
    batch: int,
    rounds: int,
) -> dict[str, Any]:
    """Differences over all images, and seconds of a batch in turn with torch's."""
    searches = isinstance(detector, AnomalyDINO)
    parts = [model.run(part.numpy()) for part in x.split(batch)]
    found = {key: np.concatenate([part[key] for part in parts]) for key in wanted}
    first = x[:batch]
    calls: list[Callable[[], Any]] = [
        partial(model.run, first.numpy()),
        partial(in_torch, detector, first),
        *([partial(in_plain_torch, detector, first)] if searches else []),
    ]
    for call in calls:
        call()
    times = [[seconds(call) for call in calls] for _ in range(rounds)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    ratios = [statistics.median(row[i] / row[0] for row in times) for i in range(1, len(calls))]
    ranks = [float(auroc(values["score"], label)) for values in (wanted, found)]
    return {
        "batch": batch,
        "shape": list(x.shape[2:]),
        "score_error": float(np.abs(found["score"] - wanted["score"]).max()),
        "map_error": float(np.abs(found["anomaly_map"] - wanted["anomaly_map"]).max()),
        "auroc_difference": abs(ranks[1] - ranks[0]),
        "auroc": ranks[0],
        "seconds": medians[0],
        "seconds_torch": medians[1],
        "seconds_plain_torch": medians[2] if searches else None,
        "ratio": ratios[0],
        "ratio_plain": ratios[1] if searches else None,
    }


def peak_memory(path: Path, engine: str, threads: int, shape: tuple[int, ...]) -> int:
    """Most bytes of a process of its own that loads and runs the file."""
    command = [sys.executable, "-c", PROGRAM, path, engine, threads, *shape]
    out = subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return 1024 * int(out.stdout)


def measured(
    detector: Detector,
    path: Path,
    engine: Any,
    picked: list[Sample],
    given: argparse.Namespace,
    wanted_at: dict[Any, tuple[Tensor, dict[str, Array]]],
) -> dict[str, Any]:
    """Everything of one file on one engine; torch's answers are kept by shape."""
    label = np.array([sample.label for sample in picked])
    model = runtime.load(path, engine=engine, threads=given.threads)
    rows = []
    for shape in shapes(detector, given.sizes, dynamic=model.image_size is None):
        if shape not in wanted_at:
            x = prepared(detector, picked, shape)
            parts = [in_torch(detector, part) for part in x.split(4)]
            joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            wanted_at[shape] = x, joined
        rows += [
            compared(detector, model, *wanted_at[shape], label, batch, given.rounds)
            for batch in BATCHES
        ]
    del model
    largest = (BATCHES[-1], 3, *rows[0]["shape"])
    return {
        "file_bytes": sum(one.stat().st_size for one in (path, data_file(path)) if one.is_file()),
        "peak_memory": peak_memory(path, engine, given.threads, largest),
        "rows": rows,
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detector")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 320])
    parser.add_argument("--images", type=int, default=8, help="of each class")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--engines", nargs="+", choices=TARGETS, default=[*TARGETS])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = folder(given.data)
    detector = fitted(given.detector, data, given.weights, given.sizes[0]).eval()
    picked = [
        sample
        for wanted in (0, 1)
        for sample in spread([s for s in data.test if s.label == wanted], given.images)
    ]
    names = {sample.name for sample in picked}
    others = [sample for sample in data.test if sample.name not in names]
    choosing = spread([*data.train], CHOOSING)
    for wanted in (0, 1):
        found = [sample for sample in others if sample.label == wanted]
        choosing += spread(found, min(CHOOSING, len(found)))
    given.out.mkdir(parents=True, exist_ok=True)
    wanted_at: dict[Any, tuple[Tensor, dict[str, Array]]] = {}
    figures = []
    for precision, engine in itertools.product(given.precisions, given.engines):
        searched = "bank" in precision or "operator" in precision
        if searched and not isinstance(detector, AnomalyDINO):
            continue
        if "operator" in precision and engine == "openvino":
            continue  # it knows no operators but its own
        stem = f"{precision.replace(', ', '_').replace(' ', '_')}@{engine}"
        kept = given.out / f"{stem}.json"
        if not kept.is_file():
            with TemporaryDirectory() as scratch:
                path = Path(scratch) / f"{stem}.onnx"
                found = {"precision": precision, "engine": engine}
                try:
                    found |= made(precision, engine, detector, choosing, path, given.threads)
                except VerificationError as error:
                    found |= {"refused": str(error).replace(str(path), path.name)}
                else:
                    found |= measured(detector, path, engine, picked, given, wanted_at)
            write_text(kept, json.dumps(found))
        figures.append(json.loads(kept.read_text()))
        print(stem, {k: v for k, v in figures[-1].items() if k != "rows"}, flush=True)
    study = {
        "detector": given.detector if given.detector in ("knn", "masked") else detector.method,
        "detector_hash": detector_hash(detector),
        "data": given.data.name,
        "weights": None if given.weights is None else given.weights.name,
        "images": len(picked),
        "threads": given.threads,
        "bank": len(detector.bank) if isinstance(detector, AnomalyDINO) else None,
    }
    document = {"study": study, "figures": figures, "notes": []}
    write_text(given.out / "tables.json", json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
