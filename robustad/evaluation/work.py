"""One unit of work: a batch, clean or under one attack; computed once, kept if there is a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import robustad
from robustad.attacks import LogitScale, Preset, attack, preset
from robustad.data import Sample, sample_hash
from robustad.detectors import Detector
from robustad.evaluation.batches import Batch, batches
from robustad.evaluation.fixed import Fixed
from robustad.evaluation.hashes import detector_hash, seeds_of
from robustad.evaluation.plan import Case, Plan
from robustad.evaluation.pool import ClassPool
from robustad.evaluation.result import CLEAN
from robustad.evaluation.store import Outcome, Store, unit_key

FORMAT = 2  # of what a unit's hash stands for; raise it when units mean something else


@dataclass(kw_only=True, eq=False)
class Work:
    """Computes units, or reads them.

    Attributes
    ----------
    detector : Detector
        The one evaluated.
    detector_hash : str
        Its fingerprint.
    plan : Plan
        What to do.
    fixed : Fixed
        What attacks take as given.
    store : Store or None
        Where finished units are kept.
    reuse : bool
        Whether to read units that the store has.
    done : callable
        Called after each unit.
    computed : int
        Units that were not found in the store.
    """

    detector: Detector
    detector_hash: str
    plan: Plan
    fixed: Fixed
    store: Store | None = None
    reuse: bool = True
    done: Callable[[], None] = lambda: None
    computed: int = 0
    _hashes: dict[int, str] = field(default_factory=dict)
    _clean_passes: dict[int, Outcome] = field(default_factory=dict)

    def batches(self, keep: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches of all samples or of those at some places, `index` as in all samples."""
        if keep is None:
            yield from batches(self.detector, self.plan.samples, self.plan.batch_size)
            return
        some = [self.plan.samples[i] for i in keep]
        for batch in batches(self.detector, some, self.plan.batch_size):
            batch.index[:] = [keep[i] for i in batch.index]
            yield batch

    def hashes(self, places: Sequence[int]) -> list[str]:
        """Fingerprints of samples, each read once."""
        for place in places:
            if place not in self._hashes:
                sample: Sample = self.plan.samples[place]
                self._hashes[place] = sample_hash(sample)
        return [self._hashes[place] for place in places]

    def outcome(self, batch: Batch, case: Case | None) -> Outcome:
        """What an attack made of a batch; of the clean batch where `case` is None."""
        if case is None and batch.index[0] in self._clean_passes:
            return self._clean_passes[batch.index[0]]
        parts = self._parts(batch, case) if self.store is not None else {}
        key = unit_key(parts)
        found = self.store.get(key) if self.store is not None and self.reuse else None
        if found is None:
            found = self._clean(batch) if case is None else self._attacked(batch, case)
            self.computed += 1
            if self.store is not None:
                self.store.put(key, found, parts)
        if case is None:
            self._clean_passes[batch.index[0]] = found
        self.done()
        return found

    def _parts(self, batch: Batch, case: Case | None) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "format": FORMAT,
            "robustad": robustad.__version__,
            "detector": self.detector_hash,
            "images": self.hashes(batch.index),
            "attack": CLEAN,
        }
        if case is not None:
            parts |= {
                "attack": case.attack,
                "eps": case.eps,
                "seed": self.plan.seed,
                "restarts": self.plan.restarts,
                "precision": self.plan.precision,
                **self.fixed.parts(),
            }
            chosen = preset(case.attack)
            if chosen.optimiser == "adaptive":
                parts["typical"] = self.fixed.typical
            if "pool" in chosen.takes:
                parts["pool"] = [self.hashes(places) for places in self._pool.chosen.values()]
            if "surrogate" in chosen.needs:
                parts["surrogates"] = [detector_hash(one) for one in self.plan.surrogates]
        return parts

    @cached_property
    def _pool(self) -> ClassPool:
        return ClassPool(self.detector, self.plan.samples)

    @staticmethod
    def _restarts(chosen: Preset) -> bool:
        """One step from the clean image has nothing to start again from."""
        return "restarts" in chosen.takes and chosen.steps != 1

    def _clean(self, batch: Batch) -> Outcome:
        start = time.perf_counter()
        with torch.no_grad():
            patch_scores = self.detector.patch_scores(batch.x)
            score = _array(self.detector.aggregate(patch_scores))
        size = len(batch.index)
        return Outcome(
            score=score,
            worst_score=score,
            patch_scores=_array(patch_scores),
            pixel_patch_scores=_array(patch_scores),
            order_patch_scores=_array(patch_scores),
            distance=np.zeros(size, np.float32),
            forward=np.ones(size, np.int64),
            backward=np.zeros(size, np.int64),
            seconds=time.perf_counter() - start,
        )

    def _attacked(self, batch: Batch, case: Case) -> Outcome:
        start = time.perf_counter()
        chosen = preset(case.attack)
        needs, scale = chosen.needs, self.fixed.scale
        result = attack(
            self.detector,
            batch.x,
            label=batch.label,
            mask=batch.mask,
            attack=case.attack,
            eps=case.eps,
            restarts=self.plan.restarts if self._restarts(chosen) else 1,
            seeds=seeds_of(self.hashes(batch.index), self.plan.seed),
            threshold=self.fixed.threshold,
            scale=None if scale is None else LogitScale(*map(torch.tensor, scale)),
            calibrator=self.fixed.calibrator,
            typical=self.fixed.typical,
            probe=self.fixed.probe if "probe" in needs else None,
            surrogate=self.plan.surrogates if "surrogate" in needs else None,
            pool=self._pool.at(*batch.x.shape[2:]) if "pool" in chosen.takes else None,
            precision=torch.bfloat16 if self.plan.precision == "bf16" else None,
        )
        pixel, order = result.pixel_patch_scores, result.order_patch_scores
        return Outcome(
            score=_array(result.score),
            worst_score=_array(result.worst_score),
            patch_scores=_array(result.patch_scores),
            pixel_patch_scores=_array(result.patch_scores if pixel is None else pixel),
            order_patch_scores=_array(result.patch_scores if order is None else order),
            distance=_array(result.distance),
            forward=_array(result.forward),
            backward=_array(result.backward),
            flags=tuple(result.flags),
            seconds=time.perf_counter() - start,
        )


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = tensor.detach().cpu().numpy()
    return found
