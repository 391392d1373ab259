"""Fingerprints of a detector and of images, so that a result says what it was measured on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from robustad.attacks import LinearProbe
from robustad.detectors import Detector


def detector_hash(detector: Detector) -> str:
    """SHA-256 over all that a detector's scores are made of.

    Parameters
    ----------
    detector : Detector
        Fitted.

    Returns
    -------
    str
        64 hexadecimal digits over method, configuration and every tensor (name, type, shape,
        bytes); not over the device, calibrator and policy.

    Examples
    --------
    >>> import numpy as np
    >>> from robustad import AnomalyDINO
    >>> black = np.zeros((32, 32, 3), np.uint8)
    >>> one, same = (AnomalyDINO("filters", image_size=32).fit(black) for _ in range(2))
    >>> detector_hash(one) == detector_hash(same)
    True
    """
    digest = hashlib.sha256(b"robustad detector 1")
    config = json.dumps(detector.config().model_dump(mode="json"), sort_keys=True)
    for part in (detector.method.encode(), config.encode()):
        digest.update(len(part).to_bytes(8, "big") + part)
    tensors = {**detector.state_dict(), **detector.saved_tensors()}
    for name in sorted(tensors):
        part = f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode()
        digest.update(len(part).to_bytes(8, "big") + part)
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def joined_hash(hashes: Sequence[str]) -> str:
    """SHA-256 of several hashes in their order, as those of the evaluated samples."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def probe_hash(probe: LinearProbe | None) -> str | None:
    """SHA-256 of a linear probe; None for none."""
    if probe is None:
        return None
    digest = hashlib.sha256(repr(probe.bias).encode())
    digest.update(_bytes(probe.weight))
    return digest.hexdigest()


def seeds_of(hashes: Iterable[str], seed: int) -> list[int]:
    """One seed an image, made of its content: no other image, batch or shard changes it.

    Examples
    --------
    >>> seeds_of(["00ff"], 0) == seeds_of(["aa", "00ff"], 0)[1:]
    True
    """
    return [
        int.from_bytes(hashlib.sha256(f"{seed} {one}".encode()).digest()[:4], "big")
        for one in hashes
    ]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
