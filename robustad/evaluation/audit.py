"""How far anyone's model can be pushed, within a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustad.attacks import attack, preset
from robustad.attacks.access import Access, find_access
from robustad.data import Sample, folder, sample_hash
from robustad.detectors import Detector
from robustad.errors import DataError, InputError
from robustad.evaluation.audit_result import Audit, AuditStep, ImageAudit
from robustad.evaluation.batches import Batch, batches
from robustad.evaluation.fixed import score_threshold
from robustad.evaluation.hashes import detector_hash, seeds_of
from robustad.evaluation.pool import ClassPool
from robustad.evaluation.probes import quick_checks
from robustad.evaluation.target import Target, load_target
from robustad.images import image_files
from robustad.progress import status

DEFAULT_EPS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
# From cheap to strong: each goes on with the images that the ones before could not flip.
SCHEDULES = {
    "white": ("fgsm", "pgd10", "adaptive", "pgd100", "square1000"),
    "score": ("square100", "square1000", "square"),
    "decision": ("hopskipjump500", "hopskipjump2000", "hopskipjump"),
}


def audit(
    model: Any,
    images: str | Path | Sequence[Sample],
    *,
    minutes: float = 5.0,
    eps: Sequence[float] = DEFAULT_EPS,
    threshold: float | None = None,
    attacks: Sequence[str] | None = None,
    image_size: int = 224,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Audit:
    """Find out what access a model gives, attack it with what fits, and say how it fared.

    Parameters
    ----------
    model : str, Path, Detector or callable
        As `robustad.evaluation.target.load_target`.
    images : str, Path or sequence of Sample
        A folder: in a layout of `robustad.data.folder` its test images with their labels, else
        any images, which are taken for what the model says of them.
    minutes : float > 0, default 5
        Time for attacks. The first batch is always attacked; a step that is not expected to end
        in time is not begun.
    eps : sequence of float in (0, 1], default 1, 2, 4 and 8 / 255
        Radii. Attacks run at each, from the smallest; what flips at one is not tried again at
        larger ones.
    threshold : float, optional
        Image score from which the verdict is anomalous; default the model's own. Without any
        there are no verdicts, only scores.
    attacks : sequence of str, optional
        In place of those chosen for the access.
    image_size : int, default 224
        For callables: images are stretched to squares of this many pixels.
    batch_size : int, default 8
        Images attacked at once.
    seed : int, default 0
        Of everything random.
    progress : bool, default False
        Show a progress bar.
    clock : callable, default time.monotonic
        Gives seconds.

    Returns
    -------
    Audit
        With `verdict()` in plain words.

    Raises
    ------
    InputError
        If the model or an option is none of the above, or it is in training mode.
    DataError
        If there is no image or one cannot be read.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = np.full((2, 8, 8, 3), 120, np.uint8)
    >>> some = [Sample(image=p, label=0, name=str(i)) for i, p in enumerate(pixels)]
    >>> found = audit(lambda x: x.mean(dim=(1, 2, 3)), some, threshold=0.48, eps=[4 / 255])
    >>> found.access, found.level, found.images[0].flips_at == 4 / 255
    ('white', 'open', True)
    """
    start = clock()
    radii = sorted(map(float, eps))
    if not radii or not all(0.0 < one <= 1.0 for one in radii) or len(set(radii)) < len(radii):
        raise InputError(f"eps: expected different radii in (0, 1], got {[*eps]}")
    if not 0.0 < minutes < float("inf"):
        raise InputError(f"minutes: expected a time > 0, got {minutes}")
    if batch_size < 1:
        raise InputError(f"batch_size: expected >= 1, got {batch_size}")
    detector = load_target(model, image_size=image_size)
    if detector.training:
        raise InputError("detector: is in training mode; call detector.eval() before auditing it")
    samples, labelled = labelled_samples(images)
    access = _access(detector, next(iter(batches(detector, samples, 1))).x)
    if isinstance(detector, Target):
        detector.differentiable = access == "white"
    if threshold is None:
        threshold = score_threshold(detector.calibrator, detector.policy)
    if threshold is None and access == "decision":
        threshold = 0.5  # of booleans
    planned = _planned(access, threshold) if attacks is None else [*attacks]
    for name in planned:
        preset(name)
    run = _Run(detector, samples, radii, threshold, labelled, batch_size, seed)
    run.look()
    complete = run.attack(planned, start, 60.0 * minutes, clock, progress)
    named = isinstance(detector, Target)
    return Audit(
        model=detector.config().model_dump()["name"] if named else detector.method,
        sha256=detector.config().model_dump()["sha256"] if named else detector_hash(detector),
        access=access,
        threshold=threshold,
        labelled=labelled,
        eps=radii,
        images=run.images,
        steps=run.steps,
        complete=complete,
        planned=planned,
        checks=quick_checks(detector, samples),
        seconds=clock() - start,
    )


class _Run:
    """The images as they stand while attacks go by."""

    def __init__(
        self,
        detector: Detector,
        samples: Sequence[Sample],
        radii: Sequence[float],
        threshold: float | None,
        labelled: bool,
        batch_size: int,
        seed: int,
    ) -> None:
        self.detector, self.samples, self.radii = detector, samples, radii
        self.threshold, self.labelled = threshold, labelled
        self.batch_size = batch_size
        self.seeds = seeds_of([sample_hash(sample) for sample in samples], seed)
        self.images: list[ImageAudit] = []
        self.steps: list[AuditStep] = []

    @torch.no_grad()
    def look(self) -> None:
        """Score all images as they are."""
        count = len(self.radii)
        for batch in batches(self.detector, self.samples, self.batch_size):
            for index, score in zip(batch.index, self.detector(batch.x).tolist(), strict=True):
                sample = self.samples[index]
                label = sample.label
                if not self.labelled:
                    label = int(self.threshold is not None and score >= self.threshold)
                self.images.append(
                    ImageAudit(
                        name=sample.name,
                        label=label,
                        clean_score=score,
                        worst_score=[score] * count,
                        queries=[0] * count,
                        flips_at=0.0 if self._wrong(label, score) else None,
                    )
                )

    def attack(
        self,
        planned: Sequence[str],
        start: float,
        budget: float,
        clock: Callable[[], float],
        progress: bool,
    ) -> bool:
        """Run attacks until they are through or the time is; whether they are."""
        steps = [(name, place) for name in planned for place in range(len(self.radii))]
        with status("audit", len(steps), enabled=progress) as show:
            for done, (name, place) in enumerate(steps):
                show(done, f"{name}, {sum(one.flips_at is not None for one in self.images)} wrong")
                cost = 0.0  # of a batch of this attack
                for batch in self._left(place):
                    if self.steps and clock() + cost - start > budget:
                        return False
                    began = clock()
                    self._attack(batch, name, place, clock)
                    cost = clock() - began
        return True

    def _left(self, place: int) -> list[Batch]:
        """Images that no smaller or equal radius has flipped, in batches."""
        left = [i for i, one in enumerate(self.images) if self._open(one, self.radii[place])]
        some = [self.samples[i] for i in left]
        found = []
        for batch in batches(self.detector, some, self.batch_size):
            batch.index[:] = [left[i] for i in batch.index]
            found.append(batch)
        return found

    @staticmethod
    def _open(one: ImageAudit, eps: float) -> bool:
        return one.flips_at is None or one.flips_at > eps

    def _attack(self, batch: Batch, name: str, place: int, clock: Callable[[], float]) -> None:
        began, eps = clock(), self.radii[place]
        label = torch.tensor([self.images[i].label for i in batch.index], device=batch.x.device)
        mask = batch.mask if self.labelled else (label == 1)[:, None].expand_as(batch.mask)
        starts = None
        if "pool" in preset(name).takes:
            starts = self._pool.at(batch.x.shape[2], batch.x.shape[3])
        result = attack(
            self.detector,
            batch.x,
            label=label,
            mask=mask,
            attack=name,
            eps=eps,
            seeds=[self.seeds[i] for i in batch.index],
            threshold=self.threshold,
            pool=starts,
        )
        step = AuditStep(
            attack=name,
            eps=eps,
            images=len(batch.index),
            forward=int(result.forward.sum()),
            backward=int(result.backward.sum()),
            seconds=clock() - began,
        )
        last = self.steps[-1] if self.steps else None
        if last is not None and (last.attack, last.eps) == (name, eps):
            for field in ("images", "forward", "backward", "seconds"):
                setattr(last, field, getattr(last, field) + getattr(step, field))
        else:
            self.steps.append(step)
        scores, queries = result.worst_score.tolist(), result.forward.tolist()
        for index, score, spent in zip(batch.index, scores, queries, strict=True):
            self._note(self.images[index], name, place, score, spent)

    @cached_property
    def _pool(self) -> ClassPool:
        return ClassPool(self.detector, self.samples, [one.label for one in self.images])

    def _note(self, one: ImageAudit, name: str, place: int, score: float, spent: int) -> None:
        worse = max if one.label == 0 else min
        for larger in range(place, len(self.radii)):  # the larger balls hold this image as well
            one.worst_score[larger] = worse(one.worst_score[larger], score)
            one.queries[larger] += spent
        if self._wrong(one.label, score):
            one.flips_at, one.flipped_by = self.radii[place], name
            one.flip_queries = spent

    def _wrong(self, label: int, score: float) -> bool:
        return self.threshold is not None and (score >= self.threshold) != (label == 1)


def _access(detector: Detector, x: Tensor) -> Access:
    """What can be seen of a model; one that chokes on a tensor with a graph shows no gradient."""
    scorer = detector.scorer if isinstance(detector, Target) else detector
    try:
        return find_access(scorer, x)
    except RuntimeError:
        with torch.no_grad():
            scorer.aggregate(scorer.patch_scores(x))
        return "decision" if getattr(scorer, "decides", False) else "score"


def _planned(access: Access, threshold: float | None) -> list[str]:
    """The schedule of an access, without attacks that lack something."""
    found = []
    for name in SCHEDULES[access]:
        try:
            needs = preset(name).needs
        except InputError:
            continue
        if threshold is not None or "threshold" not in needs:
            found.append(name)
    return found


def labelled_samples(images: str | Path | Sequence[Sample]) -> tuple[list[Sample], bool]:
    """Images to audit, and whether they have labels."""
    if not isinstance(images, str | Path):
        if not images:
            raise DataError("images: expected at least one, got none")
        return list(images), True
    root = Path(images)
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, got none")
    flat = image_files(root)
    if flat:
        return [Sample(image=path, label=0, name=path.name) for path in flat], False
    found = folder(root)
    return [*(found.test or found.train)], bool(found.test)
