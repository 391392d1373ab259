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
from robustad._batching import runs
from robustad.attacks import LogitScale, Preset, attack, preset
from robustad.data import Sample, sample_hash
from robustad.detectors import Detector
from robustad.evaluation.batches import Batch, batches
from robustad.evaluation.fixed import Fixed
from robustad.evaluation.hashes import detector_hash, seeds_of
from robustad.evaluation.plan import Case, Plan, Shard
from robustad.evaluation.pool import ClassPool
from robustad.evaluation.result import CLEAN
from robustad.evaluation.store import Outcome, Store, unit_key
from robustad.workers import Crew

FORMAT = 2  # of what a unit's hash stands for; raise it when units mean something else


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit for a worker.

    Attributes
    ----------
    name : str
        For people.
    places : list of int
        Of the batch's images among all samples.
    case : Case or None
        The attack; None for the clean images.
    threshold : float or None
        Of `Fixed`, as it is known by now.
    """

    name: str
    places: list[int]
    case: Case | None
    threshold: float | None


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
    crew : Crew or None
        Workers who compute what `ahead` tells them to.
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
    crew: Crew | None = None
    computed: int = 0
    _hashes: dict[int, str] = field(default_factory=dict)
    _sizes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _clean_passes: dict[int, Outcome] = field(default_factory=dict)
    # Keys of what workers did: counted then, and to be read even where nothing else is.
    _given_out: set[str] = field(default_factory=set)

    def batches(self, keep: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches of all samples or of those at some places, `index` as in all samples."""
        if keep is None:
            yield from batches(self.detector, self.plan.samples, self.plan.batch_size)
            return
        some = [self.plan.samples[i] for i in keep]
        for batch in batches(self.detector, some, self.plan.batch_size):
            batch.index[:] = [keep[i] for i in batch.index]
            yield batch

    def ahead(
        self,
        cases: Sequence[Case | None],
        *,
        keep: Sequence[int] | None = None,
        shard: Shard = (1, 1),
    ) -> None:
        """Have workers compute, if there are any, what `outcome` is asked for next.

        Parameters
        ----------
        cases : sequence of Case or None
            Attacks; None stands for the clean images.
        keep : sequence of int, optional
            As `batches`.
        shard : (int, int), default (1, 1)
            (i, n) takes every n-th batch from the i-th on.

        Raises
        ------
        StateError
            If workers could not do a unit; the others are in the store then.
        """
        if self.crew is None or self.store is None:
            return
        missing = {}
        for places in self._groups(keep)[shard[0] - 1 :: shard[1]]:
            for case in cases:
                key = unit_key(self._parts(places, case))
                if self.reuse and self.store.get(key) is not None:
                    continue
                first, last = (self.plan.samples[places[i]].name for i in (0, -1))
                what = CLEAN if case is None else case.name
                name = f"{what} of images {places[0]} to {places[-1]} ({first} to {last})"
                missing[name] = (
                    Unit(name=name, places=places, case=case, threshold=self.fixed.threshold),
                    key,
                )
        for unit, computed in self.crew.run([unit for unit, _ in missing.values()]):
            self._given_out.add(missing[unit.name][1])
            self.computed += computed
            self.done()

    def forget(self) -> None:
        """Drop clean outcomes that are kept in memory."""
        self._clean_passes.clear()

    def _groups(self, keep: Sequence[int] | None) -> list[list[int]]:
        """Places of the images of every batch, as `batches` makes them."""
        places = range(len(self.plan.samples)) if keep is None else keep
        return list(runs(places, self.plan.batch_size, key=self._size))

    def _size(self, place: int) -> tuple[int, ...]:
        """Height and width of a prepared image."""
        geometry = self.detector.geometry
        if geometry.square:
            return ()  # all the same
        if place not in self._sizes:
            height, width = self.plan.samples[place].read().shape[:2]
            self._sizes[place] = geometry.crop(*geometry.resized(height, width))[2:]
        return self._sizes[place]

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
        parts = self._parts(batch.index, case) if self.store is not None else {}
        key = unit_key(parts)
        made = key in self._given_out
        found = self.store.get(key) if self.store is not None and (self.reuse or made) else None
        if found is None:
            found = self._clean(batch) if case is None else self._attacked(batch, case)
            self.computed += 1
            if self.store is not None:
                self.store.put(key, found, parts)
        if case is None:
            self._clean_passes[batch.index[0]] = found
        if not made:
            self.done()
        return found

    def _parts(self, places: Sequence[int], case: Case | None) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "format": FORMAT,
            "robustad": robustad.__version__,
            "detector": self.detector_hash,
            "images": self.hashes(places),
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
                parts["pool"] = [self.hashes(some) for some in self._pool.chosen.values()]
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
