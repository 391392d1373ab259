"""Workers that are processes of this machine."""

from __future__ import annotations

import json
import os
import pickle
import selectors
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import robustad
from robustad.workers.base import Crew, Hand, Job, Piece, Word
from robustad.workers.options import Workers
from robustad.workers.process import LENGTH


class Process(Hand):
    """A worker process: pieces go in pickled, answers come back as JSON lines."""

    def __init__(self, job: bytes, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "robustad.workers.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the one that gives out the work
        )
        self.send(job)

    @property
    def answers(self) -> Any:
        """Where its answers come from."""
        return self.process.stdout

    def send(self, message: bytes) -> None:
        """Send it something pickled."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died; the end of its answers tells
            self.process.stdin.write(len(message).to_bytes(LENGTH, "big") + message)
            self.process.stdin.flush()

    def stop(self) -> None:
        """End it, at once."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait()


class LocalCrew(Crew):
    """Worker processes; see `robustad.workers.crew`."""

    def __init__(self, job: Job, workers: Workers) -> None:
        super().__init__(workers.count)
        self._job = pickle.dumps((job, workers.share))
        self._selector = selectors.DefaultSelector()
        here = str(Path(robustad.__file__).resolve().parent.parent)
        before = os.environ.get("PYTHONPATH")
        self._environment = os.environ | {
            "PYTHONPATH": here if before is None else f"{here}{os.pathsep}{before}",
            "OMP_NUM_THREADS": str(workers.share),
        }

    def _hire(self) -> Process:
        worker = Process(self._job, self._environment)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def _give(self, hand: Process, piece: Piece) -> None:
        hand.send(pickle.dumps(piece))

    def _next(self) -> tuple[Process, Word]:
        event = self._selector.select()[0][0]
        worker: Process = event.data
        line = worker.answers.readline()
        if not line.endswith(b"\n"):
            return worker, Word(died=f"with code {worker.process.wait()}")
        return worker, Word(**json.loads(line))

    def _dismiss(self, hand: Process) -> None:
        self._selector.unregister(hand.answers)
        hand.stop()

    def close(self) -> None:
        """End all workers."""
        super().close()
        self._selector.close()
