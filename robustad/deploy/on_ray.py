"""Shards scored by Ray actors, on one machine or many that share the folders."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from robustad._imports import require
from robustad.deploy.local import ATTEMPTS
from robustad.deploy.shards import Job, Shard, score_shard
from robustad.errors import RobustadError, StateError


class Scorer:
    """What a Ray actor is made of: a model that stays loaded."""

    def __init__(self, job: Job) -> None:
        self._job, self._model = job, job.load()

    def score(self, shard: Shard) -> int:
        """Score a shard; its index."""
        score_shard(self._model, self._job, shard)
        return shard.index


def run_ray(job: Job, shards: Sequence[Shard], workers: int) -> Iterator[Shard]:
    """Score shards with Ray Core actors; those that die are replaced and their shards redone.

    Uses the Ray cluster that is connected, or connects to the one of `RAY_ADDRESS`, or starts one
    on this machine. Folders and model have to be reachable under the same names everywhere.

    Parameters
    ----------
    job : Job
        How.
    shards : sequence of Shard
        What; those that are not finished.
    workers : int >= 1
        Actors at a time; each takes one CPU of the cluster, or `job.threads` of them.

    Yields
    ------
    Shard
        Each as it is finished, in no order.

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    StateError
        If the model cannot be loaded, a shard cannot be written, or its actor died thrice.
    """
    ray: Any = require("ray", extra="ray", purpose="scoring with --engine ray")
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    cpus = job.threads or 1
    kind = ray.remote(num_cpus=cpus, max_restarts=0)(Scorer)
    waiting, attempts, lost = deque(shards), dict.fromkeys((s.index for s in shards), 0), []
    tasks: dict[Any, tuple[Any, Shard]] = {}
    actors: list[Any] = []

    def start() -> None:
        actor = kind.remote(job)
        actors.append(actor)
        give(actor)

    def give(actor: Any) -> None:
        shard = waiting.popleft()
        tasks[actor.score.remote(shard)] = (actor, shard)

    try:
        for _ in range(min(workers, len(waiting))):
            start()
        while tasks:
            [task], _ = ray.wait(list(tasks), num_returns=1)
            actor, shard = tasks.pop(task)
            try:
                ray.get(task)
            except ray.exceptions.RayActorError as error:
                actors.remove(actor)
                cause = getattr(error, "cause", None)
                if isinstance(cause, RobustadError):
                    raise StateError(f"worker: {cause}") from error
                attempts[shard.index] += 1
                if attempts[shard.index] < ATTEMPTS:
                    waiting.appendleft(shard)
                else:
                    lost.append(f"shard {shard.index}: its actor died {ATTEMPTS} times")
                if waiting:
                    start()
            except ray.exceptions.RayTaskError as error:
                lost.append(f"shard {shard.index}: {error.cause}")
                if waiting:
                    give(actor)
            else:
                if waiting:
                    give(actor)
                yield shard
    finally:
        for actor in actors:
            ray.kill(actor)
        if ours:
            ray.shutdown()
    if lost:
        raise StateError(
            f"{len(lost)} of {len(shards)} shards could not be scored, the others are finished: "
            + "; ".join(lost[:5])
        )
