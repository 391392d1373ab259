"""Workers that are Ray Core actors, on one machine or on many that share the folders."""

from __future__ import annotations

from typing import Any

from robustad._imports import require
from robustad.errors import InputError
from robustad.workers.base import Crew, Hand, Job, Piece, Word, reason
from robustad.workers.options import Workers


class Actor:
    """What a Ray actor is made of: a job that stays started."""

    def __init__(self, job: Job, threads: int) -> None:
        self._job, self._threads = job, threads
        self._do: Any = None

    def start(self) -> dict[str, Any]:
        """Start the job; fields of a `Word`."""
        try:
            self._do = self._job.start(self._threads)
        except Exception as error:
            return {"failed": reason(error)}
        return {}

    def do(self, piece: Piece) -> dict[str, Any]:
        """Do a piece; fields of a `Word`."""
        try:
            return {"answer": self._do(piece)}
        except Exception as error:
            return {"failed": reason(error)}


class RemoteActor(Hand):
    """A worker, and what it is doing."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.task = actor.start.remote()


class RayCrew(Crew):
    """Ray Core actors; see `robustad.workers.crew`.

    Uses the Ray cluster that is connected, or connects to the one of `RAY_ADDRESS`, or starts one
    on this machine. Folders and files have to be reachable under the same names everywhere.

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    InputError
        If no machine of the cluster has what one worker needs.
    """

    def __init__(self, job: Job, workers: Workers) -> None:
        super().__init__(workers.count)
        self._ray: Any = require("ray", extra="ray", purpose="workers with --engine ray")
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
        try:
            resources = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            options: dict[str, Any] = {"max_restarts": 0}
            for name, key, wanted in (
                ("num_cpus", "CPU", workers.share),
                ("num_gpus", "GPU", int(job.gpu)),
            ):
                most = int(max((one.get(key, 0) for one in resources), default=0))
                if workers.threads is None and key == "CPU":
                    wanted = max(1, min(wanted, most))  # this machine may be larger than others
                if wanted > most:  # Ray would wait for such a machine for ever
                    raise InputError(
                        f"workers: each needs {wanted} {key} on one machine of the Ray cluster, "
                        f"whose largest has {most}"
                    )
                options[name] = wanted
            self._kind = self._ray.remote(**options)(Actor)
            self._arguments = (self._ray.put(job), options["num_cpus"])
        except BaseException:
            self.close()
            raise

    def _hire(self) -> RemoteActor:
        return RemoteActor(self._kind.remote(*self._arguments))

    def _give(self, hand: RemoteActor, piece: Piece) -> None:
        hand.task = hand.actor.do.remote(piece)

    def _next(self) -> tuple[RemoteActor, Word]:
        hands = {hand.task: hand for hand in self.hands if hand.task is not None}
        [task], _ = self._ray.wait(list(hands), num_returns=1)
        hand = hands[task]
        hand.task = None
        try:
            return hand, Word(**self._ray.get(task))
        except self._ray.exceptions.RayActorError as error:
            first = (str(error).splitlines() or [""])[0]
            return hand, Word(died=f"as {type(error).__name__}: {first}")

    def _dismiss(self, hand: RemoteActor) -> None:
        self._ray.kill(hand.actor)

    def close(self) -> None:
        """End all actors, and Ray if it was started for them."""
        super().close()
        if self._ours:
            self._ray.shutdown()
