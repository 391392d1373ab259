"""Adversarial images on disk, without losing what makes them adversarial."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustad._files import written_aside
from robustad.attacks.projection import Norm, distance, slack
from robustad.detectors.base import PatchScorer
from robustad.errors import InputError, StateError

SCHEMA_VERSION = 1
MANIFEST, PIXELS = "manifest.json", "adversarial.safetensors"
LEVELS = 255.0
# A file name on every system: no folders, no drive letters, nothing hidden.
_NAME = re.compile(r"[\w][\w .+@=-]{0,199}")


@dataclass(frozen=True, kw_only=True)
class SavedImage:
    """One line of the manifest.

    Attributes
    ----------
    name : str
        Of the image, and of its PNG without `.png`.
    distance, png_distance : float
        To the clean image, of the float32 pixels and of the 8-bit PNG.
    png_inside : bool
        Whether the PNG is within eps; it can't be where no level of 1/255 is near enough to the
        clean pixels.
    clean_score, score, png_score : float or None
        Image scores, asked again of what was written; None without a detector.
    """

    name: str
    distance: float
    png_distance: float
    png_inside: bool
    clean_score: float | None
    score: float | None
    png_score: float | None


@dataclass(frozen=True, kw_only=True)
class SavedImages:
    """A folder written by `save_adversarial`.

    Attributes
    ----------
    folder : Path
        With `manifest.json`, `adversarial.safetensors` and a PNG an image.
    norm : {"linf", "l2", "l1"}
        Of the ball.
    eps : float
        Its radius.
    images : list of SavedImage
        In the order given.
    about : dict
        What the caller added.
    x_adv, clean : Tensor, (B, 3, H, W), float32
        Bit for bit what was attacked, and with what.
    """

    folder: Path
    norm: Norm
    eps: float
    images: list[SavedImage]
    about: dict[str, Any]
    x_adv: Tensor
    clean: Tensor


@torch.no_grad()
def save_adversarial(
    x_adv: Tensor,
    folder: str | Path,
    *,
    clean: Tensor,
    names: Sequence[str],
    eps: float,
    norm: Norm = "linf",
    detector: PatchScorer | None = None,
    about: Mapping[str, Any] | None = None,
) -> SavedImages:
    """Write adversarial images so that they attack as well when they are read again.

    Parameters
    ----------
    x_adv : Tensor, (B, 3, H, W), float32 in [0, 1]
        Adversarial images, for instance `AttackResult.x_adv`.
    folder : str or Path
        Where to; created, and refused if it holds a manifest already.
    clean : Tensor, (B, 3, H, W), float32 in [0, 1]
        The images they were made of.
    names : sequence of str
        One an image, all different, usable as file names.
    eps : float > 0
        Radius that the images claim to stay within.
    norm : {"linf", "l2", "l1"}, default "linf"
        In which norm.
    detector : PatchScorer, optional
        Scores what was written, once as float32 and once as 8-bit PNG.
    about : mapping, optional
        Anything that JSON holds, kept in the manifest: attack, seeds, hashes.

    Returns
    -------
    SavedImages
        As `load_adversarial` gives it, read back from the disk.

    Raises
    ------
    InputError
        If shapes or names do not fit, an image is outside the ball, or the folder is in use.

    Notes
    -----
    float32 pixels (safetensors) keep everything. The PNGs are for eyes and for systems that read
    8 bits: truncating to 8 bits would lose much of a perturbation of a few levels, so each pixel is
    rounded to the nearer of its two levels, or towards the clean pixel where that would leave the
    ball. The manifest is written last: a folder without one was not finished.

    Examples
    --------
    >>> import tempfile, torch
    >>> clean = torch.full((1, 3, 8, 8), 0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = save_adversarial(
    ...         clean + 0.01, folder, clean=clean, names=["part 1"], eps=0.01
    ...     )
    >>> saved.images[0].png_inside, torch.equal(saved.x_adv, clean + 0.01)
    (True, True)
    """
    target = Path(folder)
    x_adv, clean = (value.detach().cpu().float().contiguous() for value in (x_adv, clean))
    _check(x_adv, clean, names, eps, norm)
    if (target / MANIFEST).exists():
        raise InputError(f"folder: {target} holds adversarial images already; take another")
    with written_aside(target / PIXELS) as aside:
        save_file({"x_adv": x_adv, "clean": clean}, aside)
    levels = round_inside(x_adv, clean, eps=eps, norm=norm)
    for name, pixels in zip(names, levels, strict=True):
        with written_aside(target / f"{name}.png") as aside:
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(aside, format="PNG")
    written, seen = _read_pixels(target / PIXELS)
    pngs = torch.stack([_read_png(target / f"{name}.png") for name in names])
    records = _measured(written, seen, pngs, names, eps, norm, detector)
    document = {
        "schema_version": SCHEMA_VERSION,
        "norm": norm,
        "eps": eps,
        "pixels_sha256": _sha256(target / PIXELS),
        "images": [asdict(record) for record in records],
        "about": dict(about or {}),
    }
    try:
        text = json.dumps(document, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"about: expected what JSON can hold: {error}") from error
    with written_aside(target / MANIFEST) as aside:
        aside.write_text(text + "\n", encoding="utf-8")
    return load_adversarial(target)


def load_adversarial(folder: str | Path) -> SavedImages:
    """Read a folder written by `save_adversarial`.

    Parameters
    ----------
    folder : str or Path
        The folder.

    Returns
    -------
    SavedImages
        Checked: the pixels are those the manifest was written for, and inside the ball.

    Raises
    ------
    StateError
        If something is missing, damaged, of a newer version, or has been changed.
    """
    source = Path(folder)
    try:
        document = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
        version = document["schema_version"]
        if version > SCHEMA_VERSION:
            raise StateError(
                f"{source}: written by a newer robustad (version {version}, this one reads up to "
                f"{SCHEMA_VERSION}); upgrade robustad"
            )
        images = [SavedImage(**record) for record in document["images"]]
        norm, eps, about = document["norm"], document["eps"], document["about"]
        expected = document["pixels_sha256"]
        if _sha256(source / PIXELS) != expected:
            raise StateError(f"{source}: {PIXELS} is not the file that {MANIFEST} was written for")
        x_adv, clean = _read_pixels(source / PIXELS)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(
            f"{source}: no folder of adversarial images, or a damaged one: {error!r}"
        ) from error
    if x_adv.shape != clean.shape or len(images) != len(x_adv):
        raise StateError(f"{source}: {len(images)} images in {MANIFEST}, {len(x_adv)} in {PIXELS}")
    if bool((distance(x_adv, clean, norm) > eps + slack(eps, norm)).any()):
        raise StateError(f"{source}: an image is more than {eps:g} from its clean one")
    return SavedImages(
        folder=source, norm=norm, eps=eps, images=images, about=about, x_adv=x_adv, clean=clean
    )


def round_inside(x_adv: Tensor, clean: Tensor, *, eps: float, norm: Norm = "linf") -> Tensor:
    """Round images to 8 bits without leaving the ball, where 8 bits allow it.

    Parameters
    ----------
    x_adv, clean : Tensor, (B, 3, H, W), float32 in [0, 1]
        Images within `eps` of `clean`.
    eps : float > 0
        Radius of the ball.
    norm : {"linf", "l2", "l1"}, default "linf"
        Of the ball.

    Returns
    -------
    Tensor, (B, 3, H, W), uint8
        Each pixel one of the two levels next to it: the nearer one; in l-infinity the other one
        where only that is within eps; in l2 and l1 the one nearer to the clean pixel, for as few
        pixels as bring the image inside, those that gain most first.
    """
    scaled, centre = x_adv.double() * LEVELS, clean.double() * LEVELS
    near = scaled.round()
    below, above = scaled.floor(), scaled.ceil()
    home = torch.where((below - centre).abs() <= (above - centre).abs(), below, above)
    far_off, home_off = (near - centre).abs() / LEVELS, (home - centre).abs() / LEVELS
    if norm == "linf":
        moved = far_off > eps + slack(eps, norm) / 2
    else:
        power = 2.0 if norm == "l2" else 1.0
        gain = (far_off**power - home_off**power).flatten(1)
        excess = (far_off**power).flatten(1).sum(dim=1, keepdim=True) - eps**power
        ordered, order = gain.sort(dim=1, descending=True)
        saved = ordered.cumsum(dim=1) - ordered  # by the pixels before each one
        taken = (saved < excess) & (ordered > 0)
        moved = torch.zeros_like(taken).scatter(1, order, taken).reshape(near.shape)
    return torch.where(moved, home, near).clamp(0, LEVELS).to(torch.uint8)


def _check(x_adv: Tensor, clean: Tensor, names: Sequence[str], eps: float, norm: Norm) -> None:
    if x_adv.ndim != 4 or x_adv.shape[1] != 3 or x_adv.shape != clean.shape or not x_adv.numel():
        raise InputError(
            f"x_adv and clean: expected two batches (B, 3, H, W), got {tuple(x_adv.shape)} and "
            f"{tuple(clean.shape)}"
        )
    if norm not in ("linf", "l2", "l1"):
        raise InputError(f"norm: expected 'linf', 'l2' or 'l1', got {norm!r}")
    if not 0 < eps < float("inf"):
        raise InputError(f"eps: expected a finite radius > 0, got {eps}")
    if len(names) != len(x_adv) or len({name.casefold() for name in names}) != len(names):
        raise InputError(f"names: expected {len(x_adv)} different ones, got {list(names)}")
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(
                f"names: expected letters, digits, spaces and . _ + @ = - only, got {name!r}"
            )
    for title, images in (("x_adv", x_adv), ("clean", clean)):
        low, high = float(images.min()), float(images.max())
        if not (low >= 0.0 and high <= 1.0):  # also refuses NaN
            raise InputError(f"{title}: expected values in [0, 1], got {low:g}..{high:g}")
    far = distance(x_adv, clean, norm)
    outside = (far > eps + slack(eps, norm)).nonzero().flatten().tolist()
    if outside:
        raise InputError(
            f"x_adv: images {outside} are up to {float(far.max()):.6g} from the clean ones, "
            f"expected at most eps = {eps:g}"
        )


def _measured(
    x_adv: Tensor,
    clean: Tensor,
    pngs: Tensor,
    names: Sequence[str],
    eps: float,
    norm: Norm,
    detector: PatchScorer | None,
) -> list[SavedImage]:
    far, png_far = distance(x_adv, clean, norm), distance(pngs, clean, norm)
    scores: list[list[float] | list[None]] = [[None] * len(names)] * 3
    if detector is not None:
        device = getattr(detector, "device", "cpu")
        scores = [
            detector.aggregate(detector.patch_scores(images.to(device))).tolist()
            for images in (clean, x_adv, pngs)
        ]
    return [
        SavedImage(
            name=name,
            distance=float(far[i]),
            png_distance=float(png_far[i]),
            png_inside=bool(png_far[i] <= eps + slack(eps, norm)),
            clean_score=scores[0][i],
            score=scores[1][i],
            png_score=scores[2][i],
        )
        for i, name in enumerate(names)
    ]


def _read_pixels(path: Path) -> tuple[Tensor, Tensor]:
    tensors = load_file(path)
    return tensors["x_adv"], tensors["clean"]


def _read_png(path: Path) -> Tensor:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32) / np.float32(LEVELS)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
