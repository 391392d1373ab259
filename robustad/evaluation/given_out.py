"""An evaluation's units given out to workers, which keep what they find in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from robustad.detectors import Detector, load
from robustad.detectors.state import METHODS
from robustad.errors import InputError, StateError
from robustad.evaluation.fixed import Fixed
from robustad.evaluation.hashes import detector_hash
from robustad.evaluation.plan import Plan
from robustad.evaluation.store import Store
from robustad.evaluation.work import Unit, Work
from robustad.workers import Workers, crew

# A saved detector: where it lies, and its hash.
Saved = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """What a worker needs to do any unit of an evaluation.

    Attributes
    ----------
    detector : Saved
        The one evaluated.
    surrogates : tuple of Saved
        Its stand-ins.
    device : str
        Where to compute.
    options : dict
        Of `Plan`, but the surrogates.
    fixed : Fixed
        What attacks take as given; each unit brings its own threshold.
    store : str
        Where outcomes go.
    reuse : bool
        Whether to take from there what another worker has done.
    """

    detector: Saved
    surrogates: tuple[Saved, ...]
    device: str
    options: dict[str, Any]
    fixed: Fixed
    store: str
    reuse: bool

    @property
    def gpu(self) -> bool:
        """Whether workers compute on a GPU."""
        return torch.device(self.device).type == "cuda"

    def start(self, threads: int) -> Callable[[Unit], int]:
        """Load the detector; gives what computes a unit and returns how many were not there yet."""
        torch.set_num_threads(threads)
        detector = self._loaded(self.detector)
        work = Work(
            detector=detector,
            detector_hash=self.detector[1],
            plan=Plan(**self.options, surrogates=[self._loaded(one) for one in self.surrogates]),
            fixed=self.fixed,
            store=Store(self.store),
            reuse=self.reuse,
        )

        def do(unit: Unit) -> int:
            before = work.computed
            work.fixed = replace(self.fixed, threshold=unit.threshold)
            for batch in work.batches(unit.places):
                work.outcome(batch, unit.case)
            work.forget()
            return work.computed - before

        return do

    def _loaded(self, saved: Saved) -> Detector:
        path, identity = saved
        detector = load(path).to(self.device)
        if detector_hash(detector) != identity:
            raise StateError(
                f"{path}: the detector's saved copy is not the detector that was given (other "
                "weights of the same name?); workers would evaluate another one"
            )
        return detector


@contextmanager
def given_out(work: Work, workers: Workers | None) -> Iterator[None]:
    """Have what `work.ahead` is told of computed by workers, within the block.

    Parameters
    ----------
    work : Work
        Gets a temporary store if it has none.
    workers : Workers or None
        None leaves everything to this process.

    Raises
    ------
    InputError
        If the detector or a surrogate cannot be saved and loaded, or there is no store that the
        machines of a Ray cluster could share.
    MissingDependencyError
        If Ray is asked for and not installed.
    """
    if workers is None:
        yield
        return
    with ExitStack() as stack:
        # Processes of this machine need no folder of the caller's; other machines do.
        near = None
        if workers.engine == "ray":
            if work.store is None:
                raise InputError(
                    "store: expected a folder that all machines of the Ray cluster share, got none"
                )
            work.store.folder.mkdir(parents=True, exist_ok=True)
            near = work.store.folder.resolve()
        handed = Path(stack.enter_context(TemporaryDirectory(prefix="handed-", dir=near)))
        if work.store is None:
            work.store = Store(handed / "store")
        plan = work.plan
        job = EvaluationJob(
            detector=_saved(work.detector, handed / "detector.safetensors", "detector"),
            surrogates=tuple(
                _saved(one, handed / f"surrogate-{i}.safetensors", "surrogates")
                for i, one in enumerate(plan.surrogates)
            ),
            device=str(work.detector.device),
            options={
                one.name: getattr(plan, one.name)
                for one in fields(plan)
                if one.init and one.name != "surrogates"
            },
            fixed=work.fixed,
            store=str(work.store.folder.resolve()),
            reuse=work.reuse,
        )
        work.crew = stack.enter_context(crew(job, workers))
        try:
            yield
        finally:
            work.crew = None


def _saved(detector: Detector, path: Path, name: str) -> Saved:
    module, kind = METHODS.get(detector.method, ("", ""))
    if not module or type(detector) is not getattr(import_module(module), kind):
        raise InputError(
            f"{name}: workers load a saved copy of it, and a {type(detector).__name__} cannot be "
            f"loaded from a file, only detectors of method {', '.join(METHODS)}; evaluate it "
            "without workers"
        )
    detector.save(path)
    return str(path), detector_hash(detector)
