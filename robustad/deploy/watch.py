"""New images of a folder scored as they land, each exactly once, whatever happens in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from robustad._files import written_aside
from robustad._imports import require
from robustad.deploy.journal import Journal
from robustad.deploy.seen import SeenKeys
from robustad.deploy.settling import Candidate, Settling
from robustad.deploy.table import Table
from robustad.deploy.tolerant import (
    FloatArray,
    Scored,
    batched,
    prefetched,
    read_or_reason,
    score_images,
)
from robustad.errors import InputError
from robustad.overlay import overlay
from robustad.runtime import OnnxDetector

RESULTS, TABLE, OVERLAYS = "results.jsonl", "results.csv", "overlays"
# A file that cannot be decoded gets one more settling time: it may be a slow copy.
ATTEMPTS = 2


@dataclass(kw_only=True)
class WatchSummary:
    """What a watch did.

    Attributes
    ----------
    scored : int
        Images scored by this run.
    failed : int
        Images that could not be read or scored; each has a line with the reason.
    earlier : int
        Images that the journal held at the start.
    torn_bytes : int
        Cut off the journal's end at the start: a line that was being written at a kill.
    """

    scored: int = 0
    failed: int = 0
    earlier: int = 0
    torn_bytes: int = 0


def watch(
    folder: str | Path,
    model: OnnxDetector,
    out: str | Path,
    *,
    poll: float = 0.5,
    settle: float = 1.0,
    recursive: bool = False,
    batch_size: int = 8,
    queue: int = 64,
    overlays: bool = True,
    table: bool = True,
    once: bool = False,
    stop: threading.Event | None = None,
    told: Callable[[dict[str, Any]], None] | None = None,
) -> WatchSummary:
    """Score the images of a folder as they land, until told to stop.

    An image counts as done when its line is in `results.jsonl` and on the disk (fsync). After a
    crash or a kill, the next watch with the same `out` goes on where this one was: no image is
    missed, none gets a second line. A file that is written anew, so that its size or time of
    change differs, is a new image.

    Parameters
    ----------
    folder : str or Path
        Where images land. Files that are still being written are left alone, and so are names
        that begin with a dot.
    model : OnnxDetector
        The detector, see `robustad.runtime.load`.
    out : str or Path
        Gets `results.jsonl` (the journal), `results.csv` and `overlays/`. One watch at a time.
    poll : float > 0, default 0.5
        Seconds between two looks at the folder.
    settle : float >= 0, default 1.0
        Seconds for which a file's size and time of change have to stay the same before it is read.
    recursive : bool, default False
        Watch the folders inside too.
    batch_size : int >= 1, default 8
        Images scored at once.
    queue : int >= 1, default 64
        Images taken up between two looks at the folder; the others wait in the folder.
    overlays : bool, default True
        Write a heat map over each image.
    table : bool, default True
        Write `results.csv`.
    once : bool, default False
        Stop when every file is dealt with.
    stop : threading.Event, optional
        Set it to stop after the batch at work.
    told : callable, optional
        Called with each record once it is on the disk.

    Returns
    -------
    WatchSummary
        What was done.

    Raises
    ------
    InputError
        If the folder is missing, an option is out of range, `out` lies where its own overlays would
        be watched, or another watch uses it.
    StateError
        If the journal is damaged, or cannot be written.

    Notes
    -----
    A line has the fields of `Prediction.to_records` and `path` (relative to the folder), `key`,
    `size`, `mtime_ns`, `time`, `model`, and, where there is one, `overlay`; or, in place of the
    scores, `error`. Lines without `key` tell of starts. Memory: 16 bytes for each image ever
    scored, and one batch of decoded images with about as many waiting.
    """
    folder, out = Path(folder), Path(out)
    _check(folder, out, recursive=recursive)
    for name, value, low in (("batch_size", batch_size, 1), ("queue", queue, 1)):
        if value < low:
            raise InputError(f"{name}: expected >= {low}, got {value}")
    if not poll > 0 or not settle >= 0:
        raise InputError(f"poll, settle: expected seconds > 0 and >= 0, got {poll}, {settle}")
    stop = threading.Event() if stop is None else stop
    summary = WatchSummary()
    with Journal(out / RESULTS) as journal:
        seen = SeenKeys()
        for record in journal:
            if "key" in record:
                seen.add(record["key"])
        summary.earlier, summary.torn_bytes = len(seen), journal.torn_bytes
        settling = Settling(folder, seen, settle=settle, recursive=recursive, clock=time.monotonic)
        journal.append([_start(model)])
        rows = Table(out / TABLE, journal) if table else None
        desk = _Desk(model, settling, journal, rows, out / OVERLAYS if overlays else None)
        try:
            while not stop.is_set():
                ready = settling.ready(queue)
                decode = _reader(folder)
                for batch in batched(prefetched(ready, decode, ahead=batch_size), batch_size):
                    for record in desk.settle(batch, batch_size):
                        summary.failed += "error" in record
                        summary.scored += "error" not in record
                        if told is not None:
                            told(record)
                    if stop.is_set():
                        break
                if once and not ready and not len(settling):
                    break
                if len(ready) < queue:
                    stop.wait(poll)
        finally:
            if rows is not None:
                rows.close()
    return summary


@dataclass
class _Desk:
    """Turns a batch of decoded files into lines of the journal."""

    model: OnnxDetector
    settling: Settling
    journal: Journal
    rows: Table | None
    overlays: Path | None

    def settle(
        self, batch: list[tuple[Candidate, FloatArray | str]], batch_size: int
    ) -> list[dict[str, Any]]:
        """Score what is still as it was when found; the lines written."""
        good: list[tuple[Candidate, FloatArray]] = []
        outcomes: list[tuple[Candidate, FloatArray | None, Scored]] = []
        for candidate, decoded in batch:
            if self.settling.changed(candidate):
                continue  # written to again, or gone: it is found anew, if it is there
            if not isinstance(decoded, str):
                good.append((candidate, decoded))
            elif self.settling.again(candidate) >= ATTEMPTS:
                outcomes.append((candidate, None, Scored({"error": decoded})))
        scored = score_images(self.model, [image for _, image in good], batch_size=batch_size)
        pairs = zip(good, scored, strict=True)
        outcomes += [(candidate, image, one) for (candidate, image), one in pairs]
        records = [self._record(*outcome) for outcome in sorted(outcomes, key=lambda one: one[0])]
        if records:
            self.journal.append(records)
        for candidate, _, _ in outcomes:
            self.settling.done(candidate)
        if self.rows is not None and records:
            self.rows.append(records)
        return records

    def _record(
        self, candidate: Candidate, image: FloatArray | None, scored: Scored
    ) -> dict[str, Any]:
        record: dict[str, Any] = {
            "key": candidate.key,
            "path": candidate.name,
            "size": candidate.size,
            "mtime_ns": candidate.mtime_ns,
            "time": _now(),
            "model": model_id(self.model),
            **scored.record,
        }
        if self.overlays is not None and image is not None and scored.anomaly_map is not None:
            record["overlay"] = self._draw(candidate, image, scored.anomaly_map)
        return record

    def _draw(self, candidate: Candidate, image: FloatArray, anomaly_map: FloatArray) -> str:
        assert self.overlays is not None
        pil = require("PIL.Image", extra="cpu", purpose="writing overlays")
        place = Path(candidate.name)
        # the key keeps a.png and a.jpg apart, and the versions of a file
        name = place.with_name(f"{place.stem}-{candidate.key[:8]}.png")
        with written_aside(self.overlays / name) as aside:
            pil.fromarray(overlay(image, anomaly_map)).save(aside, format="PNG")
        return f"{self.overlays.name}/{name.as_posix()}"


def model_id(model: OnnxDetector) -> str:
    """First 12 digits of the hash of everything a file's detector was fitted with."""
    return str(model.metadata.get("tensors_sha256", ""))[:12]


def _start(model: OnnxDetector) -> dict[str, Any]:
    policy = model.policy
    return {
        "event": "start",
        "time": _now(),
        "model": model_id(model),
        "method": model.metadata.get("method"),
        "threshold": policy.threshold,
        "entropy_threshold": policy.entropy_threshold,
        "calibration": None if model.calibration is None else list(model.calibration),
    }


def _reader(folder: Path) -> Callable[[Candidate], FloatArray | str]:
    return lambda candidate: read_or_reason(folder / candidate.name)


def _check(folder: Path, out: Path, *, recursive: bool) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder to watch, found none")
    inside, place = folder.resolve(), out.resolve()
    parents = chain([place], place.parents) if recursive else [place]
    if inside in parents:
        raise InputError(
            f"{out}: lies in the watched folder {folder}, so that its overlays would be scored; "
            "choose another --out"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
