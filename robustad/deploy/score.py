"""Large sets of images scored by several workers; goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustad.deploy.shards import Job, finished, gather, plan
from robustad.errors import InputError
from robustad.runtime._session import Engine
from robustad.workers import Workers, crew


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """What `score` did.

    Attributes
    ----------
    scored, failed : int
        Images with a score, and those that could not be read or scored.
    shards, computed : int
        Shards in all, and those computed by this call.
    results : Path
        The file of all results.
    """

    scored: int
    failed: int
    shards: int
    computed: int
    results: Path


def score(
    data: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    engine: Literal["local", "ray"] = "local",
    workers: int = 2,
    shard_size: int = 256,
    batch_size: int = 8,
    threads: int | None = 1,
    runtime: Engine = "auto",
    providers: list[str] | None = None,
    calibration: tuple[float, float] | None = None,
    threshold: float | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> ScoreSummary:
    """Score all images below a folder, each exactly once.

    Work is cut into shards. A shard's file appears whole or not at all, is named after a hash of
    all that it depends on, and holds the hash of its lines: whatever dies in between, the same call
    goes on where it was and computes only what is missing, damaged, or made from other images or
    another model.

    Parameters
    ----------
    data : str or Path
        Folder with images, also in folders inside; names that begin with a dot are left out.
    model : str or Path
        Exported `.onnx` file.
    out : str or Path
        Gets `shards/`, `results.jsonl` (all lines, in the order of the images' names) and
        `results.sha256`, which `sha256sum --check` reads.
    engine : {"local", "ray"}, default "local"
        Worker processes of this machine, or Ray actors, which need the extra `ray`.
    workers : int >= 1, default 2
        At a time. Each has the model in memory.
    shard_size : int >= 1, default 256
        Images a shard: what is lost at most when a worker dies.
    batch_size : int >= 1, default 8
        Images scored at once by a worker.
    threads : int, default 1
        Of the runtime in each worker; None takes all cores.
    runtime : {"auto", "onnxruntime", "openvino"}, default "auto"
        What runs the model: the argument `engine` of `robustad.runtime.load`.
    providers, calibration
        See `robustad.runtime.load`.
    threshold : float in (0, 1), optional
        Reject from this probability on, in place of the file's own.
    told : callable, optional
        Called with the number of finished shards and of all.

    Returns
    -------
    ScoreSummary
        What was done.

    Raises
    ------
    InputError
        If a folder or file is missing or an option out of range.
    StateError
        If the model cannot be loaded, or shards could not be scored; the others are kept.
    MissingDependencyError
        If Ray is asked for and not installed.

    Notes
    -----
    A line has `path`, `sha256` of the image file, and the fields of `Prediction.to_records`, or
    `error`. Batches within a shard do not depend on the workers, so neither do the results.
    """
    who = Workers(workers, engine=engine, threads=threads or 1)  # onnxruntime has threads by itself
    if batch_size < 1:
        raise InputError(f"batch_size: expected >= 1, got {batch_size}")
    job = Job(
        data=str(Path(data).resolve()),
        model=str(Path(model).resolve()),
        out=str(Path(out).resolve()),
        batch_size=batch_size,
        threads=threads,
        runtime=runtime,
        providers=providers,
        calibration=calibration,
        threshold=threshold,
    )
    job.load()  # says what is wrong before any worker is started
    folder = Path(job.out)
    shards = plan(job, shard_size)
    missing = [shard for shard in shards if finished(shard, folder) is None]
    done = len(shards) - len(missing)
    told(done, len(shards))
    if missing:
        with crew(job, who) as hands:
            for _ in hands.run(missing):
                done += 1
                told(done, len(shards))
    scored, failed = gather(shards, folder)
    return ScoreSummary(
        scored=scored,
        failed=failed,
        shards=len(shards),
        computed=len(missing),
        results=folder / "results.jsonl",
    )
