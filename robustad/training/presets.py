"""Named training configurations: YAML files, and how single fields of them are overridden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from robustad._names import suggestion
from robustad.errors import InputError
from robustad.training.config import TrainingConfig

PRESETS = ("paper", "official", "robust", "fast")
# Fields whose keys are free.
OPEN = ("regulariser.layers",)


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
    return changed(_validated(source, document), overrides, source=source)


def changed(
    config: TrainingConfig,
    overrides: Mapping[str, Any] | Sequence[str],
    *,
    source: str = "configuration",
) -> TrainingConfig:
    """Override single fields of a configuration.

    Parameters
    ----------
    config : TrainingConfig
        What to start from.
    overrides : mapping or sequence of str
        See `preset`.
    source : str, default "configuration"
        What errors call it.

    Raises
    ------
    InputError
        If there is no such field, or a value is out of range.
    """
    # The whole of it: what an override does must not depend on which fields a file leaves out.
    document = config.model_dump(mode="json")
    for path, value in parse_overrides(overrides).items():
        _assign(document, path, value)
    return _validated(source, document)


def to_yaml(config: TrainingConfig) -> str:
    """Write a configuration as the YAML that `preset` reads."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _validated(source: str, document: dict[str, Any]) -> TrainingConfig:
    try:
        return TrainingConfig.model_validate(document)
    except ValidationError as error:
        found = error.errors()
        where, first = _place(found[0]["loc"]), found[0]
        name = where or "configuration"
        if first["type"] == "extra_forbidden":
            near = suggestion(where, fields(TrainingConfig))
            raise InputError(f"{source}: {name}: there is no such field{near}") from error
        if first["type"] == "value_error":  # one of our own, which says what came
            message = first["msg"].removeprefix("Value error, ")
            raise InputError(f"{source}: {name}: {message}") from error
        # One message each kind of value that the field takes.
        kinds = [one["msg"] for one in found if _place(one["loc"]) == where]
        message = " or ".join([kinds[0], *(k.removeprefix("Input should be ") for k in kinds[1:])])
        given = f", got {first['input']!r}" if where else ""
        raise InputError(f"{source}: {name}: {message}{given}") from error


def _place(loc: tuple[int | str, ...]) -> str:
    """Dotted name of a field, without the kind of value that was tried last."""
    known = fields(TrainingConfig)
    parent = ".".join(map(str, loc[:-1]))
    # Below a section or a mapping there are names; below any other field, kinds of value.
    named = {*OPEN, *(name.rpartition(".")[0] for name in known)}
    tried = parent in known and parent not in named and isinstance(loc[-1], str)
    return parent if tried else ".".join(map(str, loc))


def fields(model: type[BaseModel]) -> list[str]:
    """Names of all fields of a configuration, those of sections with dots.

    Examples
    --------
    >>> from robustad.training.config import TrainingConfig
    >>> [name for name in fields(TrainingConfig) if name.startswith("score")]
    ['score', 'score.top_k', 'score.map_sigma', 'score.map_radius']
    """
    found = []
    for name, field in model.model_fields.items():
        found.append(name)
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            found += [f"{name}.{inner}" for inner in fields(section)]
    return found


def _read(name: str | Path) -> tuple[str, str]:
    if name in PRESETS:
        file = resources.files("robustad.training") / "presets" / f"{name}.yaml"
        return f"preset {name}", file.read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"preset: expected one of {', '.join(PRESETS)} or a YAML file, got {str(name)!r}"
            f"{suggestion(str(name), PRESETS)}"
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
    if leaf not in section and ".".join(parents) not in OPEN:
        near = suggestion(path, fields(TrainingConfig))
        raise InputError(f"override {path}: there is no such field{near}")
    section[leaf] = value
