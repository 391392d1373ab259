"""Finding and loading backbone weights: by name, by path, or random by request."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from robustad.errors import WeightsError

RANDOM = "random"


def build(
    create: Callable[..., nn.Module], name: str, weights: str | Path | None, **options: Any
) -> nn.Module:
    """Build a timm model with weights from a name, a file, or none.

    Parameters
    ----------
    create : callable
        `timm.create_model`.
    name : str
        The timm model name, with or without a pretrained tag.
    weights : str, Path or None
        None downloads timm's weights for `name` (or takes them from its cache), "random" leaves
        the initial ones, anything else is a checkpoint file (.safetensors, .pth, .pt, .bin).
    **options
        Passed on to `create`.

    Raises
    ------
    WeightsError
        If the model is unknown, its weights cannot be downloaded, or a checkpoint is missing,
        unreadable or does not fit.
    """
    download = weights is None
    if download and not _cached(name) and _no_network():
        raise _no_download(name, "no network")
    try:
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
        if not download:
            raise
        raise _no_download(name, error) from error
    if weights is not None and str(weights) != RANDOM:
        load_checkpoint(model, Path(weights))
    return model.eval()


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a checkpoint file into `model`; extra keys (a head, unused stages) are left out.

    Raises
    ------
    WeightsError
        If the file is missing or unreadable, or a parameter is missing or of another shape.
    """
    state = _read(path)
    state = _convert(state, model)
    # Batch norm's step counters have no effect on the output and many files lack them.
    own = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in state]
    if missing:
        raise WeightsError(
            f"{path}: does not fit the model, {len(missing)} of {len(own)} tensors are missing, "
            f"first {missing[0]!r}; the file's first key is {next(iter(state), None)!r}"
        )
    wrong = [key for key in own if own[key].shape != state[key].shape]
    if wrong:
        key = wrong[0]
        raise WeightsError(
            f"{path}: tensor {key!r} has shape {tuple(state[key].shape)}, the model expects "
            f"{tuple(own[key].shape)}"
        )
    model.load_state_dict({key: state[key] for key in own}, strict=False)


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


def _cached(name: str) -> bool:
    import timm
    from huggingface_hub import try_to_load_from_cache

    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    hub_id = getattr(cfg, "hf_hub_id", None)
    if not hub_id:
        return False
    hub_id = f"{hub_id}{name}" if str(hub_id).endswith("/") else str(hub_id)
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
    return WeightsError(
        f"backbone {name!r}: its weights are not in the local cache and cannot be downloaded "
        f"({_first_line(error)}). Either get the checkpoint on a machine with a network (for timm "
        f"models: huggingface.co/timm/{name}, file model.safetensors) and pass its path as "
        "`weights` (--weights on the command line), or use backbone 'filters', which needs none"
    )
