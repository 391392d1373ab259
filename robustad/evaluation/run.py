"""Evaluate a detector on labelled images, clean and under attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from robustad.attacks import preset
from robustad.data import Sample
from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.evaluation.batches import batches
from robustad.evaluation.checks import checks_of, merged
from robustad.evaluation.fixed import Fixed, calibration_report, conformal_report, learned, own
from robustad.evaluation.given_out import given_out
from robustad.evaluation.hashes import detector_hash, joined_hash
from robustad.evaluation.passes import attack_passes, clean_pass, run_shard, skipping_passes
from robustad.evaluation.plan import Plan, Precision, Shard, check_shard
from robustad.evaluation.probes import quick_checks
from robustad.evaluation.result import CLEAN, Evaluation
from robustad.evaluation.store import Store
from robustad.evaluation.tally import Pass, condition
from robustad.evaluation.work import Work
from robustad.metrics import gmean_max
from robustad.progress import counter, track
from robustad.workers import Workers

DEFAULT_ATTACKS = ("fgsm_probe", "fgsm", "pgd10")


def evaluate(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    calibration: Sequence[Sample] | None = None,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    eps: float | Sequence[float] = 8 / 255,
    pixel: bool = True,
    batch_size: int = 8,
    restarts: int = 1,
    seed: int = 0,
    threshold: float | None = None,
    precision: Precision = "fp32",
    skip_beaten: bool = False,
    surrogates: Sequence[Detector] = (),
    store: str | Path | None = None,
    resume: bool = True,
    workers: Workers | int | None = None,
    dataset: str = "",
    category: str = "",
    progress: bool = False,
) -> Evaluation:
    """Score images clean and under attack, and sum up.

    Parameters
    ----------
    detector : Detector
        Fitted; not changed.
    samples : sequence of Sample
        Labelled evaluation images with both classes.
    calibration : sequence of Sample, optional
        Labelled images, none of them in `samples`, to fit Platt's curve, thresholds, p-values, the
        scale of logits and the linear probe on. Without them the detector's own calibrator,
        held-out scores and policy are used, if it has any.
    attacks : sequence of str, default ("fgsm_probe", "fgsm", "pgd10")
        Names as `robustad.attacks.preset` takes them. `fgsm_probe` needs `calibration` with masks;
        to objectives that look at masks, an anomalous image without one is anomalous everywhere.
    eps : float or sequence of float in (0, 1], default 8/255
        Radius of all attacks, each in its own norm; above 1 for l2 and l1 alone. With several, all
        attacks run at each; the first is the one that tables show, the others make the curve.
    pixel : bool, default True
        Also compute pixel AUROC, AP and AUPRO, over the images that have masks.
    batch_size : int, default 8
        Images of equal prepared size attacked at once.
    restarts : int, default 1
        Of attacks that take restarts.
    seed : int, default 0
        Of everything random, together with each image's content: neither batches nor shards nor
        other images change it. (`hopskipjump` starts from up to 16 clean images of the other class,
        which are taken from `samples`.)
    threshold : float, optional
        Image score from which the verdict is anomalous, for attacks that need one; default that
        of the calibrator and policy, else the best G-mean of the clean evaluation images (which
        only the attacker uses).
    precision : {"fp32", "bf16"}, default "fp32"
        Of the search; all scores are computed in float32.
    skip_beaten : bool, default False
        Leave out of further attacks the images that already count nothing in the worst-case AUROC,
        which is proved not to change it (`robustad.evaluation.worst.beaten`). Only the worst case
        is reported then, without pixel figures; its AUROC is exact, its other figures are those of
        the attacks that were run.
    surrogates : sequence of Detector, optional
        Fitted, differentiable stand-ins, which `transfer` needs.
    store : str or Path, optional
        Folder in which finished units of work are kept. The same call goes on where a killed one
        stopped, and gives, on a CPU, bitwise the same result as one that was never interrupted.
    resume : bool, default True
        False computes everything anew and overwrites what the store has.
    workers : Workers or int, optional
        Give batches and attacks out to so many worker processes of this machine, or as
        `robustad.workers.Workers` says; each loads a saved copy of the detector. With as many
        threads as this process has, they give on a CPU bitwise what it gives alone. One that dies
        is replaced and its unit done again. By default everything is done in this process.
    dataset, category : str
        Names to record.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Evaluation
        With the clean pass, one condition an attack and radius, and for each radius the worst
        case: each image's highest score (normal) or lowest (anomalous) over the clean pass and
        everything that any attack tried within the radius. AUROC is monotone in each score, so
        that worst case is exact. Pixels are not: per image the version with the smallest mean
        margin of its patches is taken, once of their scores and once of their squashed logits,
        and the choice of lower pixel AUROC counts (`robustad.evaluation.worst.pair_margin`).

    Raises
    ------
    InputError
        If samples and calibration overlap, a class is missing, an attack lacks what it needs, or
        workers are asked for and the detector is of a kind that cannot be saved and loaded.
    DataError
        If an image or mask cannot be read.
    StateError
        If workers cannot start or a unit failed; the others are in the store then.
    MissingDependencyError
        If Ray is asked for and not installed.
    """
    who = Workers.of(workers)
    plan = Plan(
        samples=list(samples),
        held_out=list(calibration or ()),
        attacks=tuple(attacks),
        eps=eps,
        pixel=pixel and not skip_beaten,
        batch_size=batch_size,
        restarts=restarts,
        seed=seed,
        threshold=threshold,
        precision=precision,
        skip_beaten=skip_beaten,
        surrogates=surrogates,
    )
    units = -(-len(plan.samples) // batch_size) * (1 + len(plan.cases))
    with (
        _work(detector, plan, store, resume, progress, who) as work,
        counter("evaluate", enabled=progress) as count,
    ):
        work.done = _steps(count, units)
        clean = _clean(work)
        skipped = None
        if skip_beaten:
            passes, skipped = skipping_passes(work, clean)
        else:
            passes = attack_passes(work, clean, pixel=clean.pixel is not None)
    result = _evaluation(work, clean, passes, dataset, category)
    if skipped is not None:
        result.settings["skipped"] = skipped
    result.checks = merged(quick_checks(detector, plan.samples), checks_of(result))
    return result


def evaluate_shard(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    shard: Shard,
    store: str | Path,
    calibration: Sequence[Sample] | None = None,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    eps: float | Sequence[float] = 8 / 255,
    batch_size: int = 8,
    restarts: int = 1,
    seed: int = 0,
    threshold: float | None = None,
    precision: Precision = "fp32",
    surrogates: Sequence[Detector] = (),
    resume: bool = True,
    workers: Workers | int | None = None,
    progress: bool = False,
) -> int:
    """Do one part of an evaluation and keep it, to be put together later.

    Parameters
    ----------
    shard : (int, int)
        (i, n): attack every n-th batch from the i-th on, 1 <= i <= n. The clean pass, one forward
        pass an image, is done for all images.
    store : str or Path
        Where the results go. Shards may share it or have one each, see
        `robustad.evaluation.merge_stores`; `evaluate` with the same options and the filled store
        computes nothing more and gives the result.
    detector, samples, calibration, attacks, eps, batch_size, restarts, seed, threshold, precision,\
    surrogates
        As `evaluate`; all samples, the same in every shard.
    resume, workers, progress
        As `evaluate`.

    Returns
    -------
    int
        Units computed now, those found in the store not counted.

    Raises
    ------
    InputError
        As `evaluate`, or if `shard` is out of range.
    """
    who = Workers.of(workers)
    place, parts = check_shard(shard)
    plan = Plan(
        samples=list(samples),
        held_out=list(calibration or ()),
        attacks=tuple(attacks),
        eps=eps,
        pixel=False,
        batch_size=batch_size,
        restarts=restarts,
        seed=seed,
        threshold=threshold,
        precision=precision,
        surrogates=surrogates,
    )
    whole = -(-len(plan.samples) // batch_size)
    units = whole + len(plan.cases) * len(range(place - 1, whole, parts))
    with (
        _work(detector, plan, store, resume, progress, who) as work,
        counter(f"shard {place}/{parts}", enabled=progress) as count,
    ):
        work.done = _steps(count, units)
        _clean(work)
        run_shard(work, (place, parts))
    return work.computed


@contextmanager
def _work(
    detector: Detector,
    plan: Plan,
    store: str | Path | None,
    resume: bool,
    progress: bool,
    workers: Workers | None,
) -> Iterator[Work]:
    if detector.training:
        raise InputError("detector: is in training mode; call detector.eval() before evaluating it")
    work = Work(
        detector=detector,
        detector_hash=detector_hash(detector),
        plan=plan,
        fixed=_fixed(detector, plan, progress),
        store=None if store is None else Store(store),
        reuse=resume,
    )
    with given_out(work, workers):
        yield work


def _clean(work: Work) -> Pass:
    """The clean pass, and the threshold that attacks need where nothing else fixes one."""
    plan = work.plan
    masks = any(sample.label == 1 and sample.mask is not None for sample in plan.samples)
    clean = clean_pass(work, pixel=plan.pixel and masks)
    needed = any("threshold" in preset(name).needs for name in plan.attacks)
    if needed and work.fixed.threshold is None:
        labels = [sample.label for sample in plan.samples]
        work.fixed = replace(work.fixed, threshold=gmean_max(clean.score, labels).threshold)
    return clean


def _fixed(detector: Detector, plan: Plan, progress: bool) -> Fixed:
    fixed = own(detector)
    if plan.held_out:
        held_out = track(
            batches(detector, plan.held_out, plan.batch_size),
            "calibrate",
            total=-(-len(plan.held_out) // plan.batch_size),
            enabled=False if len(plan.samples) + len(plan.held_out) <= 50 else progress,
        )
        names = [sample.name for sample in plan.held_out]
        fixed = learned(detector, list(held_out), names, probe=plan.probes)
    return fixed if plan.threshold is None else replace(fixed, threshold=plan.threshold)


def _steps(count: Callable[[int, int], None], total: int) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        count(done, total)

    return step


def _evaluation(
    work: Work, clean: Pass, passes: dict[str, Pass], dataset: str, category: str
) -> Evaluation:
    plan, samples, fixed = work.plan, work.plan.samples, work.fixed
    labels = np.array([sample.label for sample in samples])
    conditions = {
        one.name: condition(one, labels, fixed, clean.score) for one in (clean, *passes.values())
    }
    return Evaluation(
        method=work.detector.method,
        dataset=dataset,
        category=category,
        names=[sample.name for sample in samples],
        defects=[sample.defect for sample in samples],
        labels=labels.tolist(),
        eps=plan.radii[0],
        epsilons=[*plan.radii] if plan.attacks else [],
        conditions=conditions,
        calibration=calibration_report(fixed, conditions[CLEAN], labels),
        conformal=conformal_report(fixed),
        hashes={
            "detector": work.detector_hash,
            "data": joined_hash(work.hashes(range(len(samples)))),
        },
        settings={
            "attacks": list(plan.attacks),
            "batch_size": plan.batch_size,
            "restarts": plan.restarts,
            "seed": plan.seed,
            "precision": plan.precision,
            "threshold": fixed.threshold,
            "detector": work.detector.config().model_dump(mode="json"),
            "torch": torch.__version__,
            "robustad": version("robustad"),
        },
    )
