"""A large set of images cut into shards, each scored whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from robustad._files import written_aside
from robustad.deploy.tolerant import batched, prefetched, read_or_reason, score_images
from robustad.errors import InputError, StateError
from robustad.images import SUFFIXES
from robustad.runtime import OnnxDetector
from robustad.runtime._session import Engine
from robustad.runtime.integrity import sha256_of

FORMAT = 1  # of what a shard's key stands for; raise it when lines mean something else
FOLDER = "shards"


@dataclass(frozen=True)
class Shard:
    """Images that are scored together.

    Attributes
    ----------
    index : int
        Place among all shards.
    key : str
        SHA-256 of everything that its outcome depends on: the model, how its scores are read, and
        path, size and time of change of every image.
    images : list of str
        Relative to the folder of all images, with forward slashes.
    """

    index: int
    key: str
    images: list[str]

    @property
    def name(self) -> str:
        """For people."""
        return f"shard {self.index} ({self.images[0]} to {self.images[-1]})"

    def path(self, out: Path) -> Path:
        """Where its outcome lies or would lie."""
        return out / FOLDER / f"{self.index:06d}-{self.key[:16]}.jsonl"


@dataclass(frozen=True, kw_only=True)
class Job:
    """How shards are scored; a worker gets one and keeps its model.

    Attributes
    ----------
    data, model, out : str
        Folder of images, exported file, folder for outcomes.
    batch_size : int
        Images scored at once.
    threads : int or None
        Of the runtime, in each worker.
    runtime : {"auto", "onnxruntime", "openvino"}
        The argument `engine` of `robustad.runtime.load`.
    providers : list of str or None
        See `robustad.runtime.load`.
    calibration : (float, float) or None
        In place of the file's own.
    threshold : float or None
        In place of the file's own.
    """

    data: str
    model: str
    out: str
    batch_size: int = 8
    threads: int | None = 1
    providers: list[str] | None = None
    calibration: tuple[float, float] | None = None
    threshold: float | None = None
    runtime: Engine = "auto"

    @property
    def gpu(self) -> bool:
        """Whether a provider that computes on a GPU is asked for."""
        return bool({"cuda", "tensorrt"} & set(self.providers or ()))

    def start(self, threads: int) -> Callable[[Shard], None]:
        """Load the model, with `self.threads`; gives what scores a shard."""
        return partial(score_shard, self.load(), self)

    def load(self) -> OnnxDetector:
        """Load the model."""
        from dataclasses import replace

        from robustad import runtime

        model = runtime.load(
            self.model,
            engine=self.runtime,
            providers=self.providers,
            threads=self.threads,
            calibration=None
            if self.calibration is None
            else (self.calibration[0], self.calibration[1]),
        )
        if self.threshold is not None:
            model.policy = replace(model.policy, threshold=self.threshold)
        return model


def plan(job: Job, size: int) -> list[Shard]:
    """Find all images below a folder and cut their list into shards.

    Parameters
    ----------
    job : Job
        What to score, and with what.
    size : int >= 1
        Images a shard.

    Raises
    ------
    InputError
        If the folder is missing or holds no image, or `size` is below 1.
    """
    data = Path(job.data)
    if size < 1:
        raise InputError(f"shard_size: expected >= 1, got {size}")
    if not data.is_dir():
        raise InputError(f"{data}: expected a folder of images, found none")
    files = sorted(
        path
        for path in data.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not _hidden(path, data)
    )
    if not files:
        raise InputError(f"{data}: expected image files in it or its folders, found none")
    common: list[Any] = [
        FORMAT, sha256_of(job.model), job.calibration, job.threshold, job.providers, job.batch_size,
    ]  # fmt: skip
    if job.runtime != "auto":  # outcomes from before there was a choice stay good
        common.append(job.runtime)
    shards = []
    for index, start in enumerate(range(0, len(files), size)):
        part = files[start : start + size]
        stats = [(path.relative_to(data).as_posix(), path.stat()) for path in part]
        facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        text = json.dumps([*common, facts])
        key = hashlib.sha256(text.encode()).hexdigest()
        shards.append(Shard(index, key, [name for name, _ in stats]))
    return shards


def score_shard(model: OnnxDetector, job: Job, shard: Shard) -> None:
    """Score a shard and write its outcome, whole or not at all.

    The file has a line an image, `path`, `sha256` of the image file and its scores or an `error`,
    and a last line with the SHA-256 of all before it.
    """
    data = Path(job.data)
    lines: list[str] = []
    decode = prefetched(
        shard.images, lambda name: read_or_reason(data / name), ahead=job.batch_size
    )
    for batch in batched(decode, job.batch_size):
        good = [(name, image) for name, image in batch if not isinstance(image, str)]
        scored = score_images(model, [image for _, image in good], batch_size=job.batch_size)
        records = {name: one.record for (name, _), one in zip(good, scored, strict=True)} | {
            name: {"error": image} for name, image in batch if isinstance(image, str)
        }
        for name, _ in batch:
            digest = sha256_of(data / name) if (data / name).is_file() else None
            lines.append(json.dumps({"path": name, "sha256": digest, **records[name]}) + "\n")
    content = "".join(lines).encode("ascii")
    last = {"key": shard.key, "images": len(lines), "sha256": hashlib.sha256(content).hexdigest()}
    with written_aside(shard.path(Path(job.out))) as aside:
        aside.write_bytes(content + json.dumps({"end": last}).encode() + b"\n")


def finished(shard: Shard, out: Path) -> list[str] | None:
    """Lines of a shard's outcome; None if it is not there, or damaged and has to be made again."""
    try:
        content = shard.path(out).read_bytes()
    except OSError:
        return None
    body, _, last = content.removesuffix(b"\n").rpartition(b"\n")
    body += b"\n"
    try:
        end = json.loads(last)["end"]
        whole = (
            end["key"] == shard.key
            and end["images"] == len(shard.images) == body.count(b"\n")
            and end["sha256"] == hashlib.sha256(body).hexdigest()
        )
    except (ValueError, KeyError, TypeError):
        return None
    return body.decode("ascii").splitlines() if whole else None


def gather(shards: Sequence[Shard], out: Path) -> tuple[int, int]:
    """Write `results.jsonl` and its manifest from all shards; images scored, and failed.

    Raises
    ------
    StateError
        If a shard is missing.
    """
    scored = failed = 0
    with written_aside(out / "results.jsonl") as aside, aside.open("w", encoding="ascii") as file:
        for shard in shards:
            lines = finished(shard, out)
            if lines is None:
                raise StateError(f"{shard.path(out)}: expected a finished shard, found none")
            for line in lines:
                failed += "error" in json.loads(line)
                file.write(line + "\n")
            scored += len(lines)
    names = [Path(FOLDER) / shard.path(out).name for shard in shards] + [Path("results.jsonl")]
    text = "".join(f"{sha256_of(out / name)}  {name.as_posix()}\n" for name in names)
    with written_aside(out / "results.sha256") as aside:
        aside.write_text(text, encoding="ascii")
    return scored - failed, failed


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
