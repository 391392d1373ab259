"""Anything that can be audited, behind the interface of a detector."""

from __future__ import annotations

import hashlib
import importlib
import math
import sys
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel
from torch import Tensor

from robustad.attacks.access import OnnxScorer, as_scorer
from robustad.detectors import Detector, PatchScorer, load
from robustad.errors import InputError
from robustad.geometry import Geometry


class TargetConfig(BaseModel):
    """What tells one wrapped model from another."""

    name: str
    sha256: str | None = None


class Target(Detector):
    """A model that is no `Detector`: an exported file or any callable.

    Parameters
    ----------
    scorer : PatchScorer
        As of `robustad.attacks.access.as_scorer`.
    geometry : Geometry
        How images are prepared for it.
    config : TargetConfig
        Name, and the hash of its file.

    Attributes
    ----------
    differentiable : bool
        False; `find_access` says better once there are images.
    """

    method: ClassVar[str] = "model"

    def __init__(self, scorer: PatchScorer, geometry: Geometry, config: TargetConfig) -> None:
        super().__init__(geometry=geometry, top_fraction=1.0, map_sigma=0.0)
        self.scorer = scorer
        self.differentiable = False
        self._config = config
        self._counts: dict[tuple[int, int], int] = {}
        self.calibrator = getattr(scorer, "calibrator", None)
        self.conformal = getattr(scorer, "conformal", None)
        self.policy = getattr(scorer, "policy", None) or self.policy
        self.eval()

    def patch_scores(self, x: Tensor) -> Tensor:
        """Patch scores (B, N) of images (B, 3, H, W); with a gradient if the model gives one."""
        return self.scorer.patch_scores(x)

    def aggregate(self, patch_scores: Tensor) -> Tensor:
        """Image scores (B,), as the model has them."""
        return self.scorer.aggregate(patch_scores)

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns: those of an exported file; else as near to a square as it goes."""
        if isinstance(self.scorer, OnnxScorer):
            return self.scorer.patch_grid(height, width)
        if (height, width) not in self._counts:
            with torch.no_grad():
                blank = torch.full((1, 3, height, width), 0.5)
                self._counts[height, width] = self.patch_scores(blank).shape[1]
        count = self._counts[height, width]
        rows = next(r for r in range(math.isqrt(count), 0, -1) if count % r == 0)
        return rows, count // rows

    def config(self) -> TargetConfig:
        """Name and hash."""
        return self._config

    @classmethod
    def from_config(cls, config: dict[str, object], tensors: dict[str, Tensor]) -> Self:
        """Refuse: what was wrapped is not saved.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError("model: a wrapped model is not saved by robustad, wrap it again")

    def saved_tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}


def load_target(model: Any, *, image_size: int = 224) -> Detector:
    """Make anything that scores images a detector.

    Parameters
    ----------
    model : str, Path, Detector or callable
        A saved detector, an exported `.onnx` file, `module:callable` (imported with the working
        directory on the path), or such an object itself; see `robustad.attacks.access.as_scorer`
        for what a callable takes and gives.
    image_size : int, default 224
        Images are stretched to squares of this many pixels for callables; others know theirs.

    Returns
    -------
    Detector
        Itself, or wrapped.

    Raises
    ------
    InputError
        If there is no such file, module or name, or it is not callable.
    StateError
        If a file is damaged or not robustad's.
    """
    if isinstance(model, Detector):
        return model
    text = str(model) if isinstance(model, str | Path) else ""
    path = Path(text)
    if path.suffix == ".safetensors":
        return load(path)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise InputError(f"{path}: no such model file")
        scorer = as_scorer(path)
        assert isinstance(scorer, OnnxScorer)
        config = TargetConfig(name=path.name, sha256=_sha256(path))
        return Target(scorer, scorer.detector.geometry, config)
    function = imported(text) if text else model
    name = text or getattr(function, "__name__", type(function).__name__)
    geometry = Geometry(size=image_size, multiple=1, square=True)
    return Target(as_scorer(function), geometry, TargetConfig(name=name))


def imported(text: str) -> Any:
    """Import `module:callable`, with the working directory on the path.

    Raises
    ------
    InputError
        If there is no such module or name, or it is not callable.
    """
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise InputError(
            f"model: expected a .safetensors or .onnx file or module:callable, got {text!r}"
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"model: {text!r} cannot be imported: {error}") from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise InputError(f"model: expected {text!r} to be callable, got {type(found).__name__}")
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for part in (path, path.with_name(path.name + ".data")):  # a large bank lies beside the graph
        if part.is_file():
            digest.update(part.read_bytes())
    return digest.hexdigest()
