"""Finding and loading backbone weights: by name, by path, or random by request."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from robustad.backbones.robustbench import Normalisation, unwrapped
from robustad.errors import WeightsError

RANDOM = "random"
# Batch norm's step counters have no effect on the output and many files lack them.
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file that was read.

    Attributes
    ----------
    path : Path
        The file.
    state : dict of str to Tensor
        Of the network alone; see `robustad.backbones.robustbench.unwrapped`.
    normalisation : Normalisation or None
        Of a normalisation layer in the file; None where it has none.
    """

    path: Path
    state: dict[str, Tensor]
    normalisation: Normalisation | None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file; never unpickles anything but tensors and plain containers.

        Raises
        ------
        WeightsError
            If it is missing or unreadable.
        """
        return cls(Path(path), *unwrapped(_read(Path(path))))


def opened(weights: str | Path | Checkpoint | None) -> str | Path | Checkpoint | None:
    """Read the checkpoint if `weights` is the path of one; else give `weights` back."""
    if weights is None or isinstance(weights, Checkpoint) or str(weights) == RANDOM:
        return weights
    return Checkpoint.read(weights)


def build(
    create: Callable[..., nn.Module],
    name: str,
    weights: str | Path | Checkpoint | None,
    **options: Any,
) -> nn.Module:
    """Build a timm model with weights from a name, a file, or none.

    Parameters
    ----------
    create : callable
        `timm.create_model`.
    name : str
        The timm model name, with or without a pretrained tag.
    weights : str, Path, Checkpoint or None
        None downloads timm's weights for `name` (or takes them from its cache), "random" leaves
        the initial ones, anything else is a checkpoint file (.safetensors, .pth, .pt, .bin).
    **options
        Passed on to `create`.

    Raises
    ------
    WeightsError
        If the model is unknown, its weights cannot be downloaded, or a checkpoint is missing,
        unreadable or does not fit.
    AssertionError, IndexError, TypeError
        As timm raises them, if the model does not take `options`.
    """
    download = weights is None
    try:
        if download and not _cached(name) and _no_network():
            raise _no_download(name, "no network")
        model = create(name, pretrained=download, **options)
    except WeightsError:
        raise
    except RuntimeError as error:
        if "Unknown model" in str(error) or "Invalid pretrained tag" in str(error):
            raise WeightsError(
                f"backbone {name!r}: timm has no such model or tag ({error}); "
                "timm.list_models('*dinov2*') lists some, 'filters' needs no weights"
            ) from error
        if not download:
            raise
        raise _no_download(name, error) from error
    except Exception as error:  # the hub client has many network errors
        if not download or isinstance(error, AssertionError | IndexError | TypeError):
            raise
        raise _no_download(name, error) from error
    if weights is not None and (isinstance(weights, Checkpoint) or str(weights) != RANDOM):
        checkpoint = weights if isinstance(weights, Checkpoint) else Checkpoint.read(weights)
        load_checkpoint(model, checkpoint)
    return model.eval()


def load_checkpoint(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into `model`; a head or unused stages in it are left out.

    Raises
    ------
    WeightsError
        If a parameter is missing or of another shape, or a stage of the model has more parameters
        in the file than in the model.
    """
    path = checkpoint.path
    try:
        state = _convert(checkpoint.state, model)
    except Exception as error:  # a layout that timm takes for another one
        raise WeightsError(f"{path}: does not fit the model: {_first_line(error)}") from error
    own = {k: v for k, v in model.state_dict().items() if not k.endswith(COUNTER)}
    source = {key: _key_in(state, key) for key in own}
    missing = [key for key in own if source[key] not in state]
    if missing:
        raise WeightsError(
            f"{path}: does not fit the model, {len(missing)} of {len(own)} tensors are missing, "
            f"first {missing[0]!r}; the file's first key is {next(iter(state), None)!r}"
        )
    for key, name in source.items():
        if own[key].shape != state[name].shape:
            raise WeightsError(
                f"{path}: tensor {name!r} has shape {tuple(state[name].shape)}, the model expects "
                f"{tuple(own[key].shape)}"
            )
    used, stages = {*source.values(), *model.state_dict()}, _stages(model)
    for name in state:
        # A deeper network of the same family has all that this one has, and more.
        if name.startswith(stages) and name not in used and not name.endswith(COUNTER):
            raise WeightsError(f"{path}: does not fit the model, which has no tensor {name!r}")
    model.load_state_dict({key: state[name] for key, name in source.items()}, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # weights_only refuses anything but tensors and plain containers
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path}: cannot be read as a checkpoint: {_first_line(error)}"
        ) from error
    for wrapper in ("state_dict", "model", "teacher"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
    prefixes = ("module.", "backbone.")
    for prefix in prefixes:
        if content and all(key.startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
    return content


def _convert(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Let timm translate other key layouts (DINOv2's own files, position embeddings)."""
    from timm.models import eva, vision_transformer

    for module, kind in ((vision_transformer, "VisionTransformer"), (eva, "Eva")):
        if isinstance(model, getattr(module, kind)):
            converted: dict[str, Tensor] = module.checkpoint_filter_fn(state, model)
            return converted
    return state


def _key_in(state: dict[str, Tensor], key: str) -> str:
    """Name of a parameter in the file: timm's feature extractors make `stages_0` of `stages.0`."""
    first, dot, rest = key.partition(".")
    cuts = [i for i, character in enumerate(first) if character == "_"]
    names = [key, *(f"{first[:i]}.{first[i + 1 :]}{dot}{rest}" for i in cuts)]
    return next((name for name in names if name in state), key)


def _stages(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the stages whose features are used."""
    info: Any = getattr(model, "feature_info", None)
    names = info.module_name() if hasattr(info, "module_name") else ["blocks"]
    return tuple(f"{name}." for name in names)


def _hub_id(name: str) -> str | None:
    """Where the hub has the weights; None where timm knows of none there."""
    import timm

    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return getattr(cfg, "hf_hub_id", None)


def _cached(name: str) -> bool:
    """Whether `name` can be built without the hub."""
    from huggingface_hub import try_to_load_from_cache

    hub_id = _hub_id(name)
    if hub_id is None:
        return True  # unknown to timm or never published there: timm says so without a network
    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(hub_id, file), str) for file in files)


def _no_network() -> bool:
    """Whether the hub's name does not resolve; its client would retry for most of a minute."""
    if getproxies():
        return False  # the proxy resolves names, so nothing is known
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False


def _first_line(error: Exception | str) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _no_download(name: str, error: Exception | str) -> WeightsError:
    hub_id = _hub_id(name)
    where = f" (huggingface.co/{hub_id}, file model.safetensors)" if hub_id else ""
    return WeightsError(
        f"backbone {name!r}: its weights are not in the local cache and cannot be downloaded "
        f"({_first_line(error)}). Either get the checkpoint on a machine with a network{where} and "
        "pass its path as `weights` (--weights on the command line), or use backbone 'filters', "
        "which needs none"
    )
