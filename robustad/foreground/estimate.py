"""Foreground masks of samples, by any method, kept for the next time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustad.backbones.weights import RANDOM
from robustad.data.dataset import Dataset, Sample
from robustad.errors import InputError
from robustad.foreground.cache import FOLDER, MaskCache, file_digest, writable
from robustad.foreground.config import ForegroundConfig
from robustad.foreground.files import category_folder, find_masks, read_masks
from robustad.foreground.regions import cleaned, otsu
from robustad.geometry import Geometry

Estimator = Callable[[Tensor], npt.NDArray[np.bool_]]


def estimate(
    data: Dataset | Sequence[Sample],
    config: ForegroundConfig | None = None,
    image_size: int = 224,
    *,
    geometry: Geometry | None = None,
    cache: str | Path | None = None,
    device: str | torch.device = "cpu",
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Find the foreground of images.

    Parameters
    ----------
    data : Dataset or sequence of Sample
        Of a data set, the training images. A sequence has no category, so that method `auto` means
        `gradcam` for it.
    config : ForegroundConfig, optional
        How.
    image_size : int, default 224
        Edge of the square images in pixels; they are stretched to it.
    geometry : Geometry, optional
        Another way of preparing images, such as a crop; all images must come out at one size.
    cache : str, Path or None, default None
        Folder to keep masks in (`gradcam` and `pca` only). None for `.robustad/foreground` in the
        folder of the category; where there is no such folder, or it is read-only, nothing is kept,
        nor is anything found with random weights.
    device : str or torch.device, default "cpu"
        Where the network runs. It is no part of what a kept mask is checked against.
    batch_size : int, default 8
        Images at once.
    progress : callable or None, default None
        Called with (images done, images in all).

    Returns
    -------
    Tensor, (N, H, W), bool, on the CPU
        In the order of the samples. An image in which nothing stands out is all foreground; a given
        mask stays as it is.

    Raises
    ------
    InputError
        If `cache` cannot be written to, a backbone does not fit the method, or the images are not
        of one size.
    DataError
        If an image or a given mask is missing or cannot be read.
    WeightsError
        If a network's weights cannot be had.

    Examples
    --------
    >>> import numpy as np
    >>> from robustad.data import Sample
    >>> plain = Sample(image=np.zeros((8, 8, 3), np.uint8), label=0, name="a.png")
    >>> estimate([plain], ForegroundConfig(method="whole"), 16).shape
    torch.Size([1, 16, 16])
    """
    config = ForegroundConfig() if config is None else config
    if isinstance(data, Dataset):
        samples: Sequence[Sample] = data.train
        config = config.resolved(data.name, data.category)
    else:
        samples, config = data, config.resolved()
    geometry = geometry or Geometry(size=image_size, multiple=1, square=True)
    if not samples:
        return torch.zeros(0, geometry.size, geometry.size, dtype=torch.bool)
    if config.method == "whole":
        shapes = {_shape(geometry, sample) for sample in samples}
        return torch.ones(len(samples), *_one(shapes), dtype=torch.bool)
    if config.method == "files":
        # Taken as they are; an empty one is for the generator to refuse.
        return torch.from_numpy(read_masks(samples, config.folder, geometry))
    kept = _cache(samples, config, geometry, cache)
    return _estimated(samples, config, geometry, kept, torch.device(device), batch_size, progress)


def source_hash(data: Dataset, config: ForegroundConfig) -> str | None:
    """Hash of the files beside the images that decide the foregrounds of a data set.

    Parameters
    ----------
    data : Dataset
        Its training images.
    config : ForegroundConfig
        How foregrounds are found.

    Returns
    -------
    str or None
        SHA-256 in hexadecimal: of the given masks, or of the checkpoint in `config.weights`. None
        where neither is used.

    Raises
    ------
    DataError, InputError
        If given masks cannot be found.
    """
    resolved = config.resolved(data.name, data.category)
    if resolved.method == "files":
        digests = (file_digest(path) for path in find_masks(data.train, resolved.folder))
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()
    given = resolved.weights
    by_file = resolved.method != "whole" and given is not None and Path(given).is_file()
    return file_digest(Path(str(given))) if by_file else None


def _estimated(
    samples: Sequence[Sample],
    config: ForegroundConfig,
    geometry: Geometry,
    kept: MaskCache | None,
    device: torch.device,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    found: dict[int, npt.NDArray[np.bool_]] = {}
    if kept is not None:
        for index, sample in enumerate(samples):
            mask = kept.read(sample)
            if mask is not None:
                found[index] = mask
    missing = [index for index in range(len(samples)) if index not in found]
    # Built only now: without a missing mask no weights are needed.
    estimator = _estimator(config, device) if missing else None
    for start in range(0, len(missing), batch_size):
        assert estimator is not None
        part = missing[start : start + batch_size]
        pixels = [geometry.apply(samples[index].read()) for index in part]
        _one({image.shape[:2] for image in pixels})
        batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(device)
        for index, mask in zip(part, estimator(batch), strict=True):
            found[index] = mask
            if kept is not None:
                kept.write(samples[index], mask)
        if progress is not None:
            progress(len(samples) - len(missing) + start + len(part), len(samples))
    _one({mask.shape for mask in found.values()})
    return torch.from_numpy(np.stack([found[index] for index in range(len(samples))]))


def _estimator(config: ForegroundConfig, device: torch.device) -> Estimator:
    """Give the function from images (B, 3, H, W) to masks (B, H, W)."""
    assert config.backbone is not None
    if config.method == "gradcam":
        from robustad.foreground.gradcam import GradCAM

        cam = GradCAM(config.backbone, config.weights).to(device)

        def by_gradcam(images: Tensor) -> npt.NDArray[np.bool_]:
            maps = cam.saliency(
                images,
                soft=config.soft,
                hard=config.hard,
                contrast=config.contrast,
                seed=config.seed,
            )
            masks = []
            for values in maps.cpu().numpy():
                level = otsu(values) if config.threshold == "otsu" else config.threshold
                masks.append(_clean(values > level, config))
            return np.stack(masks)

        return by_gradcam

    from robustad.foreground.tokens import TokenForeground

    tokens = TokenForeground(
        config.backbone, config.weights, threshold=config.pca_threshold, unit=config.pca_unit
    ).to(device)
    return lambda images: np.stack([_clean(mask, config) for mask in tokens(images).cpu().numpy()])


def _clean(mask: npt.NDArray[np.bool_], config: ForegroundConfig) -> npt.NDArray[np.bool_]:
    mask = cleaned(mask, largest=config.largest, fill=config.fill)
    return mask if mask.any() else np.ones_like(mask)


def _cache(
    samples: Sequence[Sample],
    config: ForegroundConfig,
    geometry: Geometry,
    folder: str | Path | None,
) -> MaskCache | None:
    if config.weights == RANDOM:  # another network each time
        return None
    if folder is not None:
        chosen = Path(folder)
        if not writable(chosen):
            raise InputError(f"cache: expected a folder that can be written to, got {chosen}")
    else:
        root = category_folder(samples)
        if root is None or not writable(root / FOLDER):
            return None
        chosen = root / FOLDER
    parameters: dict[str, Any] = config.model_dump(mode="json", exclude={"folder"})
    weights = config.weights
    if weights is not None and Path(weights).is_file():
        # The file's content counts, not where it lies.
        parameters["weights"] = file_digest(Path(weights))
    # Of squares nothing is cut off that are whole multiples: previews and training share masks.
    whole = geometry.square and geometry.size % geometry.multiple == 0
    parameters["geometry"] = [geometry.size, 1 if whole else geometry.multiple, geometry.square]
    return MaskCache(chosen, parameters)


def _shape(geometry: Geometry, sample: Sample) -> tuple[int, int]:
    if geometry.square and geometry.multiple == 1:
        return geometry.size, geometry.size
    height, width = sample.read().shape[:2]
    return geometry.crop(*geometry.resized(height, width))[2:]


def _one(shapes: set[Any]) -> tuple[int, int]:
    if len(shapes) != 1:
        listed = ", ".join(f"{h} x {w}" for h, w in sorted(shapes))
        raise InputError(f"images: expected one size after preparation, got {listed} pixels")
    shape: tuple[int, int] = next(iter(shapes))
    return shape
