"""Building a memory bank: rotated references and greedy coresets."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.detectors.pruning import Outlyingness, inliers
from robustad.detectors.whitening import Whitening
from robustad.errors import InputError
from robustad.ops import pack_bank
from robustad.progress import track


def build_bank(
    features: Sequence[Tensor],
    *,
    whiten: bool = False,
    prune: float = 0.0,
    prune_by: Outlyingness = "distance",
    coreset_size: int | float | None = None,
    progress: bool = False,
) -> tuple[Tensor, Whitening | None]:
    """Make a bank of the patch features of normal images.

    Parameters
    ----------
    features : sequence of Tensor, (R, D), float32
        One an image.
    whiten : bool, default False
        Fit a whitening on them and apply it.
    prune : float in [0, 1), default 0
        Share of outliers to drop before a coreset is chosen; see `robustad.detectors.pruning`.
    prune_by : {"distance", "density"}, default "distance"
        What makes a vector an outlier.
    coreset_size : int, float or None, default None
        See `coreset`.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    bank : Tensor, (M, D), float32
        Vectors of unit length.
    whitening : Whitening or None
        What was applied.

    Raises
    ------
    InputError
        If there is no image, or the size of the coreset is out of range.
    """
    if not features:
        raise InputError("images: expected at least one normal image, got none")
    bank = torch.cat(list(features))
    whitening = Whitening.fit(bank) if whiten else None
    if whitening is not None:
        bank = whitening(bank)
    bank = pack_bank(bank).unit
    if prune > 0:
        bank = bank[inliers(bank, drop=prune, by=prune_by)]
    if coreset_size is not None:
        bank = bank[coreset(bank, coreset_size, progress=progress)]
    return bank, whitening


def checked_bank(
    tensors: Mapping[str, Tensor], *, whiten: bool, dim: int, least: int
) -> dict[str, Tensor]:
    """Check a saved bank before it is used.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        `bank` (M, dim + 1 if whitened, else dim), and if so `centre` (dim,) and `whitening`
        (dim, dim).
    whiten : bool
        Whether the bank was whitened.
    dim : int
        Of the backbone's features.
    least : int
        Vectors needed.

    Returns
    -------
    dict of str to Tensor
        These tensors alone.

    Raises
    ------
    InputError
        If a shape or type does not fit, or a vector is neither zero nor of length 1.
    """
    rows = [*tensors["bank"].shape, 0][0]
    shapes: dict[str, tuple[int, ...]] = {"bank": (max(rows, least), dim + whiten)}
    if whiten:
        shapes |= {"centre": (dim,), "whitening": (dim, dim)}
    for key, shape in shapes.items():
        found = tensors[key]
        if found.shape != shape or found.dtype != torch.float32:
            raise InputError(
                f"{key}: expected float32 {shape} for this backbone, got {found.dtype} "
                f"{tuple(found.shape)}"
            )
    length = torch.linalg.vector_norm(tensors["bank"], dim=1)
    if not bool((((length - 1).abs() <= 1e-5) | (length == 0)).all()):  # also NaN
        raise InputError("bank: expected finite vectors of length 1 (or 0)")
    return {key: tensors[key] for key in shapes}


def rotations(x: Tensor, count: int) -> Tensor:
    """Rotate images about their centre in equal steps of a full turn.

    Parameters
    ----------
    x : Tensor, (B, 3, H, W)
        Images.
    count : int >= 1
        Number of rotations; 8 gives steps of 45 degrees, 1 the images themselves.

    Returns
    -------
    Tensor, (count * B, 3, H, W)
        The unrotated images first. Bilinear; corners from outside repeat the nearest edge pixel.
    """
    turned = [x]
    height, width = x.shape[2:]
    for step in range(1, count):
        angle = 2 * math.pi * step / count
        cos, sin = math.cos(angle), math.sin(angle)
        # grid_sample works in units of half the image: the ratio keeps the rotation rigid
        theta = torch.tensor(
            [[cos, sin * height / width, 0.0], [-sin * width / height, cos, 0.0]],
            dtype=x.dtype,
            device=x.device,
        )
        grid = F.affine_grid(theta.expand(x.shape[0], 2, 3), list(x.shape), align_corners=False)
        turned.append(F.grid_sample(x, grid, padding_mode="border", align_corners=False))
    return torch.cat(turned)


def coreset(vectors: Tensor, size: int | float, *, seed: int = 0, progress: bool = False) -> Tensor:
    """Pick vectors that cover the rest: greedy k-centre selection.

    Parameters
    ----------
    vectors : Tensor, (M, D), floating point
        The full bank.
    size : int or float
        A count in 1..M, or a share of M in (0, 1].
    seed : int, default 0
        Of the random projection and the first pick.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Tensor, (m,), int64
        Sorted rows of `vectors`.

    Raises
    ------
    InputError
        If `size` is out of range.

    Notes
    -----
    As in PatchCore (Roth et al., CVPR 2022, Algorithm 1): distances are taken after a random
    projection to 128 dimensions where D is larger.
    """
    count = vectors.shape[0]
    if isinstance(size, float) and not 0.0 < size <= 1.0:
        raise InputError(f"coreset: expected a share in (0, 1] or a count, got {size}")
    wanted = max(1, round(size * count)) if isinstance(size, float) else size
    if not 1 <= wanted <= count:
        raise InputError(f"coreset: expected 1..{count} vectors (the bank's rows), got {wanted}")
    generator = torch.Generator().manual_seed(seed)
    points = vectors.float()
    if points.shape[1] > 128:
        projection = torch.randn(points.shape[1], 128, generator=generator).to(points.device)
        points = points @ (projection / math.sqrt(128))
    squares = points.square().sum(dim=1)
    pick = int(torch.randint(count, (1,), generator=generator))
    nearest = torch.full_like(squares, torch.inf)
    picked = []
    for _ in track(range(wanted), "coreset", enabled=progress):
        picked.append(pick)
        distance = squares + squares[pick] - 2 * (points @ points[pick])
        nearest = torch.minimum(nearest, distance)
        nearest[pick] = -torch.inf  # never twice, also among duplicates
        pick = int(nearest.argmax())
    return torch.tensor(sorted(picked), dtype=torch.int64, device=vectors.device)
