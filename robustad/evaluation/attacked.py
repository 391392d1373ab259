"""A folder of images, attacked and saved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustad.attacks import attack as run_attack
from robustad.attacks import preset
from robustad.attacks.images import save_adversarial
from robustad.data import Sample, sample_hash
from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.evaluation.audit import labelled_samples
from robustad.evaluation.batches import batches
from robustad.evaluation.hashes import detector_hash, seeds_of
from robustad.evaluation.pool import ClassPool
from robustad.progress import track


def attack_folder(
    detector: Detector,
    images: str | Path,
    out: str | Path,
    *,
    attack: str = "pgd10",
    eps: float = 8 / 255,
    anomalous: bool = False,
    threshold: float | None = None,
    restarts: int = 1,
    queries: int | None = None,
    pool: str | Path | None = None,
    surrogates: Sequence[Detector] = (),
    seed: int = 0,
    batch_size: int = 8,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Attack the images of a folder and save the worst that was seen of each.

    Parameters
    ----------
    detector : Detector
        Or a model wrapped by `robustad.evaluation.target.load_target`.
    images : str or Path
        As `robustad.evaluation.audit.audit` takes it.
    out : str or Path
        Folder to write to, see `robustad.attacks.images.save_adversarial`; images of several
        prepared sizes go to a folder each, named `<height>x<width>`.
    attack, eps, threshold, restarts, queries
        As `robustad.attack`.
    pool : str or Path, optional
        Folder of images of the other class, which `hopskipjump` starts from; default the other
        class of `images`, where these have labels.
    surrogates : sequence of Detector, optional
        Which `transfer` needs.
    anomalous : bool, default False
        Label of images of a folder without labels.
    seed : int, default 0
        Of everything random.
    batch_size : int, default 8
        Images attacked at once.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    list of dict
        The manifest's line of each image, and as `flags` what the attack noticed while it dealt
        with it and its neighbours, see `robustad.attacks.AttackResult`.

    Raises
    ------
    InputError, DataError
        As `robustad.attack` and the loaders.
    """
    samples, labelled = labelled_samples(images)
    if not labelled:
        samples = [Sample(image=s.image, name=s.name, label=int(anomalous)) for s in samples]
    starts = _starts(detector, samples, pool) if "pool" in preset(attack).takes else None
    if pool is not None and starts is None:
        raise InputError(f"pool: attack {attack!r} does not start from other images")
    seeds = seeds_of([sample_hash(sample) for sample in samples], seed)
    found: dict[tuple[int, int], list[tuple[str, Tensor, Tensor]]] = {}
    flags: dict[str, tuple[str, ...]] = {}
    steps = track(
        batches(detector, samples, batch_size),
        "attack",
        total=-(-len(samples) // batch_size),
        enabled=progress,
    )
    for batch in steps:
        result = run_attack(
            detector,
            batch.x,
            label=batch.label,
            mask=batch.mask,
            attack=attack,
            eps=eps,
            restarts=restarts,
            seeds=[seeds[i] for i in batch.index],
            threshold=threshold,
            queries=queries,
            surrogate=surrogates or None,
            pool=None if starts is None else starts.at(batch.x.shape[2], batch.x.shape[3]),
        )
        kept = found.setdefault((batch.x.shape[2], batch.x.shape[3]), [])
        for row, index in enumerate(batch.index):
            name = file_name(samples[index].name)
            kept.append((name, result.x_worst[row].cpu(), batch.x[row].cpu()))
            flags[name] = result.flags
    about = {"attack": attack, "seed": seed, "restarts": restarts}
    about |= {"method": detector.method, "detector": detector_hash(detector)}
    records = []
    for (height, width), kept in found.items():
        folder = Path(out) if len(found) == 1 else Path(out) / f"{height}x{width}"
        saved = save_adversarial(
            torch.stack([x for _, x, _ in kept]),
            folder,
            clean=torch.stack([x for _, _, x in kept]),
            names=[name for name, _, _ in kept],
            eps=eps,
            norm=preset(attack).norm,
            detector=detector,
            about=about,
        )
        records += [asdict(one) | {"flags": [*flags[one.name]]} for one in saved.images]
    return records


def _starts(detector: Detector, samples: Sequence[Sample], pool: str | Path | None) -> ClassPool:
    if pool is None:
        return ClassPool(detector, samples)
    missing = {0, 1} - {sample.label for sample in samples}
    if len(missing) != 1:
        raise InputError("pool: images of both classes are attacked, which serve each other")
    others, _ = labelled_samples(pool)
    return ClassPool(detector, others, [*missing] * len(others))


def file_name(name: str) -> str:
    """Name of a sample as a file name: folders joined by `_`, without the suffix.

    Examples
    --------
    >>> file_name("test/hole/003.png")
    'test_hole_003'
    """
    stem = str(Path(name).with_suffix("")).replace("/", "_").replace("\\", "_")
    return re.sub(r"[^\w .+@=-]", "_", stem)
