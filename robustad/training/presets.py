"""Named training configurations: YAML files, and how single fields of them are overridden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from robustad.errors import InputError
from robustad.training.config import TrainingConfig

PRESETS = ("paper", "official", "robust", "fast")


def preset(
    name: str | Path = "robust", overrides: Mapping[str, Any] | Sequence[str] = ()
) -> TrainingConfig:
    """Read a preset, or a YAML file of the same form, and override single fields.

    Parameters
    ----------
    name : str or Path, default "robust"
        `paper` (the values of the paper's supplement), `official` (the choices of its published
        code, for comparison), `robust` (this library's), `fast` (minutes on a CPU), or a file.
    overrides : mapping or sequence of str, optional
        `{"optimiser.epochs": 5}` or `["optimiser.epochs=5"]`, values in YAML.

    Returns
    -------
    TrainingConfig
        Checked.

    Raises
    ------
    InputError
        If there is no such preset, file or field, or a value is out of range.

    Examples
    --------
    >>> preset("paper").score.top_k, preset("official").score.top_k
    (5, 3)
    >>> preset("robust", ["optimiser.epochs=5"]).optimiser.epochs
    5
    """
    source, text = _read(name)
    try:
        document = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not readable as YAML: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{source}: expected a mapping of fields, got {type(document).__name__}")
    for path, value in parse_overrides(overrides).items():
        _assign(document, path, value)
    try:
        return TrainingConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "configuration"
        if first["type"] == "extra_forbidden":
            raise InputError(f"{source}: {where}: there is no such field") from error
        given = f", got {first['input']!r}" if first["loc"] else ""
        raise InputError(f"{source}: {where}: {first['msg']}{given}") from error


def to_yaml(config: TrainingConfig) -> str:
    """Write a configuration as the YAML that `preset` reads."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _read(name: str | Path) -> tuple[str, str]:
    if name in PRESETS:
        file = resources.files("robustad.training") / "presets" / f"{name}.yaml"
        return f"preset {name}", file.read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"preset: expected one of {', '.join(PRESETS)} or a YAML file, got {str(name)!r}"
        )
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def parse_overrides(overrides: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Read `["optimiser.epochs=5"]`, values in YAML; a mapping is passed on.

    Raises
    ------
    InputError
        If a text is not FIELD=VALUE.
    """
    if isinstance(overrides, Mapping):
        return dict(overrides)
    found = {}
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise InputError(f"override: expected FIELD=VALUE, got {text!r}")
        try:
            found[path.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"override {path}: not readable as YAML: {value!r}") from error
    return found


def _assign(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    section = document
    for name in parents:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise InputError(f"override {path}: {name} is a single value, not a section")
    section[leaf] = value
