"""Perlin noise of several octaves for a batch, as a few small matrix products."""

import math

import torch
from torch import Tensor

OCTAVES = 6
# The lattice repeats after this many cells; only octaves finer than a pixel reach that far.
LATTICE = 32


def perlin_noise(angles: Tensor, scale: Tensor, edge: int) -> Tensor:
    """Sum of octaves of Perlin's gradient noise.

    Parameters
    ----------
    angles : Tensor, (n, octaves, L, L), float32 in [0, 1)
        Direction of the gradient at each lattice point, in turns; the lattice repeats.
    scale : Tensor, (n,), float32
        Edge of a cell of the first octave in pixels; each further one halves it and its height.
    edge : int
        Edge of the result in pixels.

    Returns
    -------
    Tensor, (n, edge, edge), float32
        About -1 to 1.

    Notes
    -----
    A value is the sum over the four corners of its cell of `f(dy) f(dx) (g . d)`, with the fade
    curve f and the corner's gradient g (Perlin, 2002). The weights depend on one axis each, so that
    with W[y, i] = f(y - i) and D[y, i] = (y - i) W[y, i], all values are `D Gy W^T + W Gx D^T`.
    """
    octaves, lattice = angles.shape[1:3]
    octave = 2.0 ** torch.arange(octaves, device=angles.device)
    steps = torch.arange(edge, device=angles.device)
    position = steps * (octave / scale[:, None])[..., None]  # (n, octaves, edge)
    corners = torch.arange(lattice, device=angles.device)
    offset = position[..., None] - corners
    offset = torch.remainder(offset + lattice / 2, lattice) - lattice / 2
    near = (1.0 - offset.abs()).clamp(min=0.0)
    weight = near * near * near * (near * (near * 6 - 15) + 10)
    moment = weight * offset
    turn = 2 * math.pi * angles
    rows = moment @ torch.sin(turn) @ weight.mT
    noise = rows + weight @ torch.cos(turn) @ moment.mT
    return (noise / octave[:, None, None]).sum(dim=1)
