"""Shards scored by worker processes of this machine; those that die are replaced."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import robustad
from robustad.deploy.shards import Job, Shard
from robustad.errors import StateError

# A shard whose worker died this often is given up: an image in it may crash the decoder.
ATTEMPTS = 3


class _Worker:
    def __init__(self, job: Job) -> None:
        environment = dict(os.environ)
        here = str(Path(robustad.__file__).resolve().parent.parent)
        before = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = here if before is None else f"{here}{os.pathsep}{before}"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "robustad.deploy.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the one that gives out the work
        )
        self.shard: Shard | None = None
        self.ready = False
        self._send(job.__dict__)

    @property
    def answers(self) -> Any:
        """Where its answers come from."""
        return self.process.stdout

    def give(self, shard: Shard) -> None:
        """Hand it a shard."""
        self.shard = shard
        self._send(shard.to_dict())

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died; the end of its answers tells
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        """End it, at once."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait()


def run_local(job: Job, shards: Sequence[Shard], workers: int) -> Iterator[Shard]:
    """Score shards in worker processes.

    Parameters
    ----------
    job : Job
        How.
    shards : sequence of Shard
        What; those that are not finished.
    workers : int >= 1
        Processes at a time.

    Yields
    ------
    Shard
        Each as it is finished, in no order.

    Raises
    ------
    StateError
        If the model cannot be loaded, a shard cannot be written, or its worker died thrice. The
        other shards are finished first in the last two cases.
    """
    waiting = deque(shards)
    attempts: dict[int, int] = {}
    lost: list[str] = []
    with selectors.DefaultSelector() as selector:
        running: set[_Worker] = set()

        def start() -> None:
            worker = _Worker(job)
            running.add(worker)
            selector.register(worker.answers, selectors.EVENT_READ, worker)

        def end(worker: _Worker) -> None:
            selector.unregister(worker.answers)
            running.discard(worker)
            worker.stop()

        try:
            for _ in range(min(workers, len(waiting))):
                start()
            while running:
                for event, _ in selector.select():
                    worker: _Worker = event.data
                    line = worker.answers.readline()
                    if not line.endswith(b"\n"):  # it has died
                        _died(worker, waiting, attempts, lost)
                        end(worker)
                        if len(running) < min(workers, len(waiting)):
                            start()
                        continue
                    answer = json.loads(line)
                    done, worker.shard = worker.shard, None
                    if done is None and "failed" in answer:
                        raise StateError(f"worker: {answer['failed']}")
                    worker.ready = True
                    if waiting:
                        worker.give(waiting.popleft())
                    else:
                        end(worker)
                    if "failed" in answer:
                        lost.append(f"shard {answer['shard']}: {answer['failed']}")
                    elif done is not None:
                        yield done
        finally:
            for worker in running:
                worker.stop()
    if lost:
        raise StateError(
            f"{len(lost)} of {len(shards)} shards could not be scored, the others are finished: "
            + "; ".join(lost[:5])
        )


def _died(
    worker: _Worker, waiting: deque[Shard], attempts: dict[int, int], lost: list[str]
) -> None:
    shard = worker.shard
    code = worker.process.wait()
    if shard is None:
        if not worker.ready:
            attempts[-1] = attempts.get(-1, 0) + 1
            if attempts[-1] >= ATTEMPTS:
                raise StateError(f"worker: died with code {code} before its model was loaded")
        return
    attempts[shard.index] = attempts.get(shard.index, 0) + 1
    if attempts[shard.index] < ATTEMPTS:
        waiting.appendleft(shard)
    else:
        names = f"{shard.images[0]} to {shard.images[-1]}"
        lost.append(
            f"shard {shard.index} ({names}): its worker died {ATTEMPTS} times, last with {code}"
        )
