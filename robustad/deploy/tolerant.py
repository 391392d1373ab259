"""Scoring files of which some may be damaged: a result or a reason for each, never a crash."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from robustad.errors import RobustadError
from robustad.images import read_image
from robustad.runtime import OnnxDetector

FloatArray = npt.NDArray[np.float32]
T = TypeVar("T")
R = TypeVar("R")
# Decoded images of a batch take 12 bytes a pixel: 400 MB.
MAX_BATCH_PIXELS = 1 << 25


@dataclass(frozen=True)
class Scored:
    """What became of one image.

    Attributes
    ----------
    record : dict
        `Prediction.to_records` of it without the name, or `{"error": "..."}`.
    anomaly_map : array, (H, W), float32, or None
        At the size of the image.
    """

    record: dict[str, Any]
    anomaly_map: FloatArray | None = None

    @property
    def failed(self) -> bool:
        """Whether there is no score."""
        return "error" in self.record


def score_images(
    model: OnnxDetector, images: Sequence[FloatArray], *, batch_size: int = 8
) -> list[Scored]:
    """Score images; one that cannot be scored does not keep the others from it.

    Parameters
    ----------
    model : OnnxDetector
        The detector.
    images : sequence of array, (H, W, 3), float32 in [0, 1]
        Of any sizes.
    batch_size : int >= 1, default 8
        Scored at once.

    Returns
    -------
    list of Scored
        In the order given.

    Raises
    ------
    Exception
        What the engine raised, if it can no longer score the golden input either.
    """
    if not images:
        return []
    try:
        prediction = model.predict(list(images), batch_size=batch_size)
    except Exception as error:
        if len(images) > 1:
            return [score_images(model, [image], batch_size=1)[0] for image in images]
        if not isinstance(error, RobustadError):
            model.check_golden()  # whether the image or the engine is at fault
        return [Scored({"error": reason(error)})]
    records = prediction.to_records()
    for record in records:
        del record["name"]
    return [Scored(*pair) for pair in zip(records, prediction.anomaly_map, strict=True)]


def read_or_reason(path: Path) -> FloatArray | str:
    """Decode a file, or say why not."""
    try:
        return read_image(path)
    except Exception as error:  # decoders raise what they like
        # the folder is said elsewhere, and may be another one tomorrow
        return reason(error).replace(f"{path}: ", "")


def reason(error: BaseException) -> str:
    """First line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def prefetched(items: Iterable[T], work: Callable[[T], R], *, ahead: int) -> Iterator[tuple[T, R]]:
    """Do `work` on items in another thread, at most `ahead` of them before they are asked for.

    Examples
    --------
    >>> list(prefetched([1, 2, 3], lambda item: item * item, ahead=2))
    [(1, 1), (2, 4), (3, 9)]
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="decode")
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def batched(
    images: Iterable[tuple[T, R]], size: int, *, pixels: int = MAX_BATCH_PIXELS
) -> Iterator[list[tuple[T, R]]]:
    """Group what was decoded into batches of at most `size` images and about `pixels` pixels."""
    batch: list[tuple[T, R]] = []
    total = 0
    for item, decoded in images:
        count = decoded.shape[0] * decoded.shape[1] if isinstance(decoded, np.ndarray) else 0
        if batch and (len(batch) == size or total + count > pixels):
            yield batch
            batch, total = [], 0
        batch.append((item, decoded))
        total += count
    if batch:
        yield batch
