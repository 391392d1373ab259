"""Images of several requests scored together by one thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustad.conformal.scores import evidence
from robustad.errors import InputError, RobustadError
from robustad.runtime import OnnxDetector
from robustad.serve.limits import Limits, Refusal
from robustad.verdict import Verdict, binary_entropy

if TYPE_CHECKING:
    from robustad.images import Pixels

FloatArray = npt.NDArray[np.float32]
RETRY_SECONDS = 1


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model says of the images of one request.

    Attributes
    ----------
    score, probability, entropy : array, (B,)
        See `Prediction`.
    verdict : list of Verdict
        One an image.
    patch_scores : list of array, (N,), float32
        One an image.
    anomaly_map : list of array, (H, W), float32
        One an image: of the image's size, or of the tensor's where a tensor was given.
    """

    score: FloatArray
    probability: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]
    verdict: list[Verdict]
    patch_scores: list[FloatArray]
    anomaly_map: list[FloatArray]

    def part(self, start: int, stop: int) -> Scores:
        """Those of some images."""
        return Scores(**{name: value[start:stop] for name, value in vars(self).items()})


@dataclass(eq=False)
class _Job:
    images: Sequence[Pixels]
    # None for images that are still to be prepared, the shape for prepared tensors
    shape: tuple[int, ...] | None
    answer: Future[Scores] = field(default_factory=Future)


class Batcher:
    """Collects images until a batch is full or the first has waited long enough.

    Parameters
    ----------
    model : OnnxDetector
        The detector; used by the batcher's thread alone.
    limits : Limits
        `batch`, `delay` and `queue` count here.
    observe : callable, optional
        Called after each batch with its number of images and the seconds it took.
    """

    def __init__(
        self,
        model: OnnxDetector,
        limits: Limits,
        observe: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self.model, self.limits, self._observe = model, limits, observe
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images that wait."""
        return self._waiting

    def submit(self, images: Sequence[Pixels], *, prepared: bool) -> Future[Scores]:
        """Have images scored.

        Parameters
        ----------
        images : sequence of array
            `prepared`: (3, H, W), float32 in [0, 1], all of one shape, as `OnnxDetector.run` takes
            them. Else (H, W, 3), uint8 or float32 in [0, 1], of any sizes.
        prepared : bool
            Which of these they are.

        Returns
        -------
        Future of Scores
            Cancel it if nobody waits for it any more.

        Raises
        ------
        Refusal
            503 if too many images wait, or the service is stopping.
        """
        job = _Job(images, images[0].shape if prepared else None)
        with self._changed:
            if self._closed:
                raise Refusal(503, "the service is stopping", retry_after=RETRY_SECONDS)
            if self._waiting + len(images) > self.limits.queue:
                raise Refusal(
                    503,
                    f"{self._waiting} images wait, at most {self.limits.queue} can; try again",
                    retry_after=RETRY_SECONDS,
                )
            self._jobs.append(job)
            self._waiting += len(images)
            self._changed.notify()
        return job.answer

    def close(self) -> None:
        """Finish what waits, take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            start = time.perf_counter()
            self._answer(jobs)
            self._observe(sum(len(job.images) for job in jobs), time.perf_counter() - start)

    def _next(self) -> list[_Job]:
        """Jobs that can be scored together, in the order they came; none at the end."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            jobs: list[_Job] = []
            count, deadline = 0, time.monotonic() + self.limits.delay
            while True:
                while self._jobs and self._fits(jobs, count):
                    job = self._jobs.popleft()
                    self._waiting -= len(job.images)
                    if job.answer.set_running_or_notify_cancel():
                        jobs.append(job)
                        count += len(job.images)
                left = deadline - time.monotonic()
                full = bool(self._jobs) or count >= self.limits.batch
                if self._closed or (jobs and (full or left <= 0)):
                    return jobs
                self._changed.wait(left if jobs else None)
                if not jobs:  # all were cancelled: the delay begins with the next
                    deadline = time.monotonic() + self.limits.delay

    def _fits(self, jobs: list[_Job], count: int) -> bool:
        if not jobs:
            return True
        head = self._jobs[0]
        return head.shape == jobs[0].shape and count + len(head.images) <= self.limits.batch

    def _answer(self, jobs: list[_Job]) -> None:
        try:
            scores = self._score([image for job in jobs for image in job.images], jobs[0].shape)
        except Exception as error:
            if len(jobs) > 1:  # whose fault was it?
                for job in jobs:
                    self._answer([job])
            else:
                jobs[0].answer.set_exception(error)
            return
        start = 0
        for job in jobs:
            stop = start + len(job.images)
            job.answer.set_result(scores.part(start, stop))
            start = stop

    def _score(self, images: list[Pixels], shape: tuple[int, ...] | None) -> Scores:
        if shape is not None:
            return self._run(images)
        found = self.model.predict(images, batch_size=self.limits.batch)
        return Scores(
            score=found.score,
            probability=found.probability,
            entropy=found.entropy,
            verdict=found.verdict,
            patch_scores=[grid.ravel() for grid in found.patch_scores],
            anomaly_map=found.anomaly_map,
        )

    def _run(self, images: list[Pixels]) -> Scores:
        if self.model.input_form != "float_nchw":
            raise InputError("image: expected `pixels` or `file`, as this model prepares images")
        parts: list[dict[str, Any]] = [
            self.model.run(np.stack(images[start : start + self.limits.batch]))
            for start in range(0, len(images), self.limits.batch)
        ]
        names = ("score", "probability", "patch_scores", "anomaly_map")
        out = {name: np.concatenate([part[name] for part in parts]) for name in names}
        probability = out["probability"].astype(np.float64)
        return Scores(
            score=out["score"],
            probability=probability,
            entropy=binary_entropy(probability),
            verdict=self.model.policy.decide(
                evidence(out["score"], probability, self.model.conformal)
            ),
            patch_scores=list(out["patch_scores"]),
            anomaly_map=list(out["anomaly_map"]),
        )


def refusal_of(error: BaseException) -> Refusal:
    """Status and message for what a model raised."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InputError):
        return Refusal(400, str(error))
    if isinstance(error, RobustadError):
        return Refusal(500, str(error))
    return Refusal(500, f"the model failed: {type(error).__name__}")
