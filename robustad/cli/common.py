"""Options and helpers that several verbs share."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from robustad.errors import InputError

if TYPE_CHECKING:
    from robustad.data import Dataset
    from robustad.evaluation import Evaluation
    from robustad.runtime import OnnxDetector
    from robustad.workers import Workers

# Standard output carries results; everything said on the way goes to standard error.
say = Console(stderr=True, highlight=False)


class Inference(StrEnum):
    """What runs an exported file."""

    AUTO = "auto"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


DatasetName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--dataset",
        help="Layout of the images: surfaces (generated), folder (your own), mvtec, visa, ... "
        "`robustad data list` shows all.",
    ),
]
DataRoot: TypeAlias = Annotated[
    Path | None, typer.Option("--data", help="Folder of the data set; none for surfaces.")
]
Category: TypeAlias = Annotated[
    str | None, typer.Option("--category", help="Category, where the data set has several.")
]
Seed: TypeAlias = Annotated[int, typer.Option(help="Seed of the split or the shots.")]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output.")
]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Device: TypeAlias = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")
]
BatchSize: TypeAlias = Annotated[int, typer.Option(min=1, help="Images scored at once.")]
# spelled out, as torch must not be imported for a help text; a test compares with the registry
ATTACK_NAMES = (
    "fgsm_probe, fgsm, pgd10, pgd100, pgd1000, pgd_l2, pgd_l1, mifgsm, difgsm, apgd, segpgd, sea, "
    "caa, a3, square, spsa, hopskipjump, fab, transfer, features, guide, autoattack, adaptive; "
    "(pgd|apgd|mifgsm|difgsm)<steps>[_l2|_l1][_<objective>] with an objective of image, flip, "
    "bce, image_relaxed, section_l, segpgd, masked_ce, masked_ce_balanced, js, margin, misorder "
    "(e.g. pgd1000_flip); (segpgd|sea|caa|a3|autoattack|adaptive)_(l2|l1); "
    "(square|spsa)[<queries>][_l2|_l1], hopskipjump[<queries>][_l2] or "
    "(fab|transfer|features|guide)[<steps>][_l2|_l1]. `robustad attack --list` explains them."
)
Attacks: TypeAlias = Annotated[
    list[str], typer.Option("--attack", help=f"Attacks to run: {ATTACK_NAMES}")
]
Surrogates: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--surrogate", help="Detector file that `transfer` attacks in place; repeatable."),
]
Eps: TypeAlias = Annotated[
    str, typer.Option(help="Radius of the attacks as a fraction of the pixel range, e.g. 8/255.")
]
Radii: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--eps",
        help="Radii of the attacks as fractions of the pixel range, e.g. 8/255 2/255; tables show "
        "the first, the others make the curve.",
    ),
]
Shard: TypeAlias = Annotated[
    str | None,
    typer.Option(help="I/N: do part I of N alone, e.g. 2/4, and keep it in --store."),
]
Threshold: TypeAlias = Annotated[
    float | None,
    typer.Option(help="Reject from this probability on; default: what the file says."),
]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Threads of the runtime; default: one a core.")
]
Provider: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        help="onnxruntime's providers in order of preference: cpu, cuda, tensorrt, openvino, ...; "
        "default: cuda where it is installed. With --runtime openvino its devices: cpu, gpu, ...",
    ),
]
# Not --engine, which in `robustad score` says who does the work.
Runtime: TypeAlias = Annotated[
    Inference,
    typer.Option(
        "--runtime",
        help="What runs an .onnx file; auto: what it was made for, else onnxruntime.",
    ),
]


class Engine(StrEnum):
    """Where workers are."""

    LOCAL = "local"
    RAY = "ray"


WorkerCount: TypeAlias = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Give the work out to so many processes or actors."),
]
WorkerEngine: TypeAlias = Annotated[
    Engine | None,
    typer.Option(
        "--engine", help="Where workers are: processes of this machine (local), or Ray actors."
    ),
]
WorkerThreads: TypeAlias = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Of each worker; default: the cores, shared out."),
]
RequireManifest: TypeAlias = Annotated[
    bool,
    typer.Option("--require-manifest", help="Refuse a file without its .sha256 beside it."),
]


def load_onnx(
    path: Path,
    *,
    threshold: float | None = None,
    threads: int | None = None,
    provider: list[str] | None = None,
    engine: Inference = Inference.AUTO,
    require_manifest: bool = False,
) -> OnnxDetector:
    """Load an exported file as the command line's options say."""
    from dataclasses import replace

    from robustad import runtime

    model = runtime.load(
        path,
        engine=engine.value,
        providers=provider,
        threads=threads,
        integrity="require" if require_manifest else "auto",
    )
    if threshold is not None:
        model.policy = replace(model.policy, threshold=threshold)
    return model


def parse_workers(count: int | None, engine: Engine | None, threads: int | None) -> Workers | None:
    """Give what the options say; None where all work is for this process."""
    from robustad.workers import Workers

    if count is None and engine is None:
        if threads is not None:
            raise InputError("--threads: expected --workers or --engine with it, got neither")
        return None
    return Workers(
        Workers.count if count is None else count,
        engine="local" if engine is None else engine.value,
        threads=threads,
    )


def load_data(dataset: str, root: Path | None, category: str | None) -> Dataset:
    """Load a data set from the command line's options; a single category need not be named."""
    from robustad import data

    if category is None and dataset != "folder":
        found = data.categories(dataset, root)
        if len(found) != 1:
            raise InputError(f"--category: expected one of {', '.join(found)}, got none")
        category = found[0]
    return data.load(dataset, root, category)


def parse_eps(text: str) -> float:
    """Read a radius such as 8/255 or 0.03."""
    try:
        value = float(Fraction(text))
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"--eps: expected a number such as 8/255 or 0.03, got {text!r}") from error
    if not 0.0 < value <= 1.0:
        raise InputError(f"--eps: expected a fraction of the pixel range in (0, 1], got {text}")
    return value


def parse_shard(text: str) -> tuple[int, int]:
    """Read a part such as 2/4."""
    place, slash, count = text.partition("/")
    if slash and place.isdecimal() and count.isdecimal() and 1 <= int(place) <= int(count):
        return int(place), int(count)
    raise InputError(f"--shard: expected I/N with 1 <= I <= N such as 2/4, got {text!r}")


def parse_device(text: str) -> str:
    """Resolve `auto`, and refuse a device that is not there."""
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise InputError(f"--device: expected cpu, cuda, cuda:1 or auto, got {text!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device: {text} was asked for, but torch finds no GPU")
    return text


def parse_shots(text: str) -> int | Literal["full"]:
    """Read a number of shots, or `full`."""
    if text == "full":
        return "full"
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--shots: expected a number >= 1 or full, got {text!r}")
    return int(text)


def command_line() -> str:
    """Give the command as it was typed, for reports."""
    return shlex.join(["robustad", *sys.argv[1:]])


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(value, indent=1))


def summary_table(evaluation: Evaluation) -> Table:
    """Build a small table: a row a condition."""
    # no more than fit into 80 characters
    columns = ("AUROC", "AP", "FPR", "FNR", "pixel AUROC", "AUPRO", "entropy")
    what = f"{evaluation.dataset} {evaluation.category}".strip()
    title = f"{evaluation.method}: {what}" if what else None
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for condition in evaluation.conditions.values():
        m = condition.metrics
        values = (m.auroc, m.ap, m.fpr, m.fnr, m.pixel_auroc, m.aupro)
        cells = ["-" if v is None else f"{v:.3f}" for v in (*values, condition.entropy_mean)]
        table.add_row(condition.name, *cells)
    return table
