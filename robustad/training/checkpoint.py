"""Checkpoints: one safetensors file an epoch with a JSON document in its header; never pickled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW

from robustad._files import written_aside
from robustad.errors import StateError, TrainingError

HEADER = "robustad_training"


class Progress(BaseModel):
    """Where a run stands, besides its tensors.

    Attributes
    ----------
    format : int
        Version of this document.
    config : dict
        Fingerprint of the configuration.
    data : str
        Hash of the training images.
    epoch : int
        Epochs done.
    history : list of dict
        One row an epoch, as logged.
    best_epoch : int or None
        Epoch after which the best weights so far were kept.
    stale : int
        Validations since then.
    foreground : str or None
        Hash of the files that foregrounds were made from, where there are any.
    """

    # JSON has no infinity; without this one would be read back as nothing, and refused.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    format: int = 1
    config: dict[str, Any]
    data: str
    epoch: int = 0
    history: list[dict[str, int | float]] = []
    best_epoch: int | None = None
    stale: int = 0
    foreground: str | None = None


def write(path: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint aside, then rename it: what lies at `path` is always whole."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_aside(path) as aside:
        save_file(kept, aside, metadata={HEADER: progress.model_dump_json()})


def read(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    """Read a checkpoint.

    Raises
    ------
    StateError
        If the file is missing, damaged, foreign or of another version.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _progress(path, file), tensors


def read_progress(path: Path) -> Progress:
    """Read where a checkpoint stands, without its tensors; raises as `read`."""
    with _opened(path) as file:
        return _progress(path, file)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise StateError(f"{path}: not a readable checkpoint: {error}") from error


def _progress(path: Path, file: Any) -> Progress:
    header = (file.metadata() or {}).get(HEADER)
    if header is None:
        raise StateError(f"{path}: a safetensors file, but no checkpoint of a training run")
    try:
        return Progress.model_validate_json(header)
    except ValidationError as error:
        raise StateError(f"{path}: a checkpoint of another version: {error.errors()[0]}") from error


def check_same(path: Path, found: Progress, wanted: Progress) -> None:
    """Raise StateError if a checkpoint belongs to another run than the one asked for."""
    if found.data != wanted.data:
        raise StateError(
            f"{path}: is of a run on other training images; give another --out, or --restart"
        )
    different = sorted(_different(found.config, json.loads(json.dumps(wanted.config))))
    if different:
        raise StateError(
            f"{path}: is of a run with another {', '.join(different)}; give another --out, or "
            "--restart"
        )
    # None in checkpoints of before this was kept.
    if found.foreground not in (None, wanted.foreground):
        raise StateError(
            f"{path}: is of a run with other foregrounds, as their files have changed since; give "
            "another --out, or --restart"
        )


def _different(old: Any, new: Any, where: str = "") -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where} ({old!r}, not {new!r})"]
    return [
        line
        for key in {*old, *new}
        for line in _different(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
    ]


def not_the_best(path: Path, expected: int | None, found: int | None) -> StateError:
    """Say that best weights are there, but those of another epoch."""
    return StateError(
        f"{path}: expected the weights after epoch {expected}, got those after epoch {found}; "
        "give another --out, or --restart"
    )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say what is wrong with a disk that cannot be written to, and what is left.

    Raises
    ------
    TrainingError
        Instead of the system's own error.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{folder}: cannot be written to: {error}; what was written before is intact, and the "
            "same command goes on from there"
        ) from error


def load(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a network.

    Raises
    ------
    StateError
        If they do not fit.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise StateError(f"{path}: does not fit the network: {error}") from error


def optimiser_tensors(optimiser: AdamW, network: nn.Module) -> dict[str, Tensor]:
    """AdamW's moments and step counts, named after the parameters they belong to."""
    tensors = {}
    for name, parameter in network.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser.{key}.{name}"] = torch.as_tensor(value)
    return tensors


def restore_optimiser(
    optimiser: AdamW, network: nn.Module, tensors: Mapping[str, Tensor], path: Path
) -> None:
    """Put AdamW's state back.

    Raises
    ------
    StateError
        If the checkpoint lacks the state of a parameter.
    """
    for name, parameter in network.named_parameters():
        state = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors.get(f"optimiser.{key}.{name}")
            if value is None:
                raise StateError(f"{path}: the optimiser's {key} of {name} is missing")
            state[key] = value.clone() if key == "step" else value.to(parameter.device)
        optimiser.state[parameter] = state


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors `prefix.name`; each gets memory of its own, as the file format asks."""
    return {f"{prefix}.{name}": tensor.detach().clone() for name, tensor in state.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `prefixed`: the tensors under that prefix, by their own names."""
    start = prefix + "."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
