"""Every attack preset on one detector and a few images of a data set: strength beside cost.

    python benchmarks/attack_table.py DETECTOR --data FOLDER --out RUN [--images N] [--eps 8/255]
    python benchmarks/render_results.py --add attacks_NAME RUN [RUN ...]

DETECTOR is a detector file, or `knn` for AnomalyDINO on CNN features fitted here (`--weights`).
Every preset and radius is kept in RUN as soon as it is finished; the same command goes on there.
Figures come from images that neither calibrator nor probe nor scale have seen.
"""

import argparse
import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustad._files import write_text
from robustad.attacks import LogitScale, attack, preset
from robustad.data import Sample, folder, sample_hash
from robustad.detectors import AnomalyDINO, Detector, load
from robustad.errors import InputError
from robustad.evaluation.batches import Batch, batches
from robustad.evaluation.fixed import Fixed, learned
from robustad.evaluation.hashes import detector_hash, seeds_of
from robustad.evaluation.pool import ClassPool
from robustad.metrics import PixelMetrics, auroc, gmean_max

# Black boxes by their budget: the default ones, ten thousand queries an image, take hours.
LINF = [
    *("fgsm_probe", "fgsm", "mifgsm", "difgsm", "pgd10", "pgd100", "pgd1000", "apgd", "segpgd"),
    *("sea", "caa", "a3", "fab", "autoattack", "adaptive", "transfer", "features", "guide"),
    *("square1000", "spsa1000", "hopskipjump1000"),
]
L2 = ["pgd_l2", "fab_l2", "square1000_l2", "autoattack_l2", "adaptive_l2"]
REFERENCES = 32  # normal images in the bank, spread evenly


def chosen_samples(data: Path, count: int) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Normal training images; `count` test images of each class spread evenly; some others."""
    found = folder(data)
    picked, rest = [], []
    for label in (0, 1):
        one = [sample for sample in found.test if sample.label == label]
        places = set(np.linspace(0, len(one) - 1, min(count, len(one) - 2)).round().astype(int))
        picked += [sample for i, sample in enumerate(one) if i in places]
        others = [sample for i, sample in enumerate(one) if i not in places]
        rest += others[:: max(1, len(others) // 10)][:10]
    return [*found.train], picked, rest


def knn(train: list[Sample], weights: Path | None, size: int) -> AnomalyDINO:
    """AnomalyDINO on features of a ResNet-18, or of filters without weights."""
    backbone = "filters" if weights is None else "resnet18"
    detector = AnomalyDINO(backbone, weights, image_size=size)
    places = np.linspace(0, len(train) - 1, min(REFERENCES, len(train))).round().astype(int)
    detector.fit([train[i].image for i in places])
    return detector


def figures(
    detector: Detector,
    found: list[Batch],
    scores: Tensor,
    choices: list[list[Tensor]],
    clean: Tensor,
) -> dict[str, Any]:
    """Image and pixel figures of one attack, and how far scores moved towards the wrong side.

    Of several choices of the images' pixel versions, as patch scores, the worst one counts.
    """
    label = torch.cat([batch.label for batch in found]).numpy()
    moved = torch.where(torch.from_numpy(label) == 0, scores - clean, clean - scores).numpy()
    pixels = []
    for patches in choices:
        pixel = PixelMetrics()
        for batch, part in zip(found, patches, strict=True):
            maps = detector.anomaly_map(part, (batch.x.shape[2], batch.x.shape[3])).numpy()
            for one, mask in zip(maps, batch.pixels, strict=True):
                if mask is not None:
                    pixel.update(one, mask)
        pixels.append(float(pixel.compute().auroc))
    return {
        "auroc": float(auroc(scores.numpy(), label)),
        "pixel_auroc": min(pixels),
        "pixel_choices": pixels,
        "moved_normal": float(moved[label == 0].mean()),
        "moved_anomalous": float(moved[label == 1].mean()),
        "scores": scores.tolist(),
    }


def run(
    detector: Detector, found: list[Batch], name: str, eps: float, given: dict[str, Any]
) -> dict[str, Any]:
    """One preset at one radius on all batches."""
    scores, forward, backward, flags = [], [], [], set()
    choices: list[list[Tensor]] = [[], []]
    start = time.perf_counter()
    for batch, seeds in zip(found, given["seeds"], strict=True):
        result = attack(
            detector,
            batch.x,
            label=batch.label,
            mask=batch.mask,
            attack=name,
            eps=eps,
            seeds=seeds,
            **{k: v for k, v in given["options"].items() if k != "probe" or "probe" in name},
        )
        scores.append(result.worst_score)
        for kept, patch in zip(
            choices, (result.pixel_patch_scores, result.order_patch_scores), strict=True
        ):
            kept.append(result.patch_scores if patch is None else patch)
        forward.append(result.forward)
        backward.append(result.backward)
        flags |= set(result.flags)
    seconds = time.perf_counter() - start
    count = sum(len(batch.index) for batch in found)
    return figures(detector, found, torch.cat(scores), choices, given["clean"]) | {
        "forward": float(torch.cat(forward).float().mean()),
        "backward": float(torch.cat(backward).float().mean()),
        "seconds": seconds / count,
        "flags": sorted(flags),
    }


def prepare(
    detector: Detector, found: list[Batch], held_out: list[Batch], picked: list[Sample], size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What attacks take as given, and the clean figures."""
    probe = hasattr(detector, "patch_features")
    fixed: Fixed = learned(detector, held_out, [], probe=probe)
    with torch.no_grad():
        patches = [detector.patch_scores(batch.x) for batch in found]
    clean = torch.cat([detector.aggregate(part) for part in patches])
    label = torch.cat([batch.label for batch in found])
    threshold = fixed.threshold
    if threshold is None:
        threshold = float(gmean_max(clean.numpy(), label.numpy()).threshold)
    surrogate = AnomalyDINO("filters", image_size=size)
    surrogate.fit(
        [batch.x[i] for batch in held_out for i in range(len(batch.index)) if not batch.label[i]]
    )
    hashes = [[sample_hash(picked[i]) for i in batch.index] for batch in found]
    options = {
        "threshold": threshold,
        "surrogate": surrogate,
        "pool": ClassPool(detector, picked).at(found[0].x.shape[2], found[0].x.shape[3]),
        "probe": fixed.probe,
        "scale": None if fixed.scale is None else LogitScale(*map(torch.tensor, fixed.scale)),
    }
    given = {"seeds": [seeds_of(h, 0) for h in hashes], "options": options, "clean": clean}
    return given, figures(detector, found, clean, [patches], clean)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detector")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--images", type=int, default=6, help="of each class")
    parser.add_argument("--eps", nargs="+", default=["8/255", "1/255"])
    parser.add_argument("--eps-l2", nargs="+", type=float, default=[0.5])
    parser.add_argument("--attacks", nargs="+", default=[*LINF, *L2])
    parser.add_argument("--batch-size", type=int, default=6)
    given = parser.parse_args()
    train, picked, rest = chosen_samples(given.data, given.images)
    if given.detector == "knn":
        detector: Detector = knn(train, given.weights, given.image_size)
    else:
        detector = load(given.detector)
    found = list(batches(detector, picked, given.batch_size))
    held_out = list(batches(detector, rest, given.batch_size))
    options, clean = prepare(detector, found, held_out, picked, given.image_size)
    given.out.mkdir(parents=True, exist_ok=True)
    in_l2 = [name for name in given.attacks if preset(name).norm == "l2"]
    in_linf = [name for name in given.attacks if name not in in_l2]
    radii = [(name, float(Fraction(eps)), eps) for eps in given.eps for name in in_linf]
    radii += [(name, eps, f"{eps:g}") for eps in given.eps_l2 for name in in_l2]
    rows: list[dict[str, Any]] = [{"attack": "clean", "eps": None, "norm": None, **clean}]
    for name, eps, shown in radii:
        path = given.out / f"{name}@{shown.replace('/', 'over')}.json"
        if not path.is_file():
            norm = preset(name).norm
            row = {"attack": name, "eps": shown, "norm": norm}
            try:
                row |= run(detector, found, name, eps, options)
            except InputError as error:
                row |= {"refused": str(error)}
            write_text(path, json.dumps(row))
        rows.append(json.loads(path.read_text()))
        last = rows[-1]
        print(
            name,
            shown,
            {k: v for k, v in last.items() if k not in ("scores", "attack", "eps")},
            flush=True,
        )
    label = [sample.label for sample in picked]
    study = {
        "detector": "knn" if given.detector == "knn" else detector.method,
        "detector_hash": detector_hash(detector),
        "data": given.data.name,
        "image_size": given.image_size,
        "normal": label.count(0),
        "anomalous": label.count(1),
        "batch_size": given.batch_size,
        "threads": torch.get_num_threads(),
    }
    write_text(
        given.out / "tables.json",
        json.dumps({"study": study, "figures": rows, "notes": []}, indent=1) + "\n",
    )


if __name__ == "__main__":
    main()
