"""The embedded backbone: a fixed bank of oriented filters. No weights, no download."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.backbones.base import Backbone, BackboneConfig

ORIENTATIONS = 6
SCALES = 4
RADIUS = 4
WAVELENGTH = 4.5
# Grey-world balance: each channel is brought to this mean; the floor keeps dark images calm.
GREY = 0.4
GREY_FLOOR = 0.05
# Energies of an 8-bit image's noise; below it the logarithm would amplify nothing but noise.
FLOOR = 0.01


class FilterBank(Backbone):
    """Local colour and log energies of Gabor filters on a patch grid.

    The colour balance and exposure of each image are normalised (grey world). Three opponent
    channels (luminance, red-green, blue-yellow) pass through quadrature pairs of
    Gabor filters, at four octaves for luminance and two for colour; the energy of each pair is
    averaged over overlapping windows of 3 x 3 patches and compressed by a logarithm. Local means
    and standard deviations of the three channels complete the vector.

    Attributes
    ----------
    patch_size, multiple : int
        8 pixels.
    dim : int
        42.

    Notes
    -----
    Features have very unequal scales: use it with `AnomalyDINO(whiten=True)`, which is the default
    for this backbone.

    Examples
    --------
    >>> import torch
    >>> FilterBank()(torch.rand(2, 3, 64, 96)).shape
    torch.Size([2, 96, 42])
    """

    has_weights = False
    opponent: Tensor
    luminance_filters: Tensor
    colour_filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.config = BackboneConfig(name="filters")
        self.patch_size = 8
        self.multiple = 8
        opponent = torch.tensor(
            [[1 / 3, 1 / 3, 1 / 3], [0.5, -0.5, 0.0], [-0.25, -0.25, 0.5]]
        ).view(3, 3, 1, 1)
        self.register_buffer("opponent", opponent, persistent=False)
        self.register_buffer("luminance_filters", gabor(ORIENTATIONS), persistent=False)
        self.register_buffer("colour_filters", gabor(3), persistent=False)
        self.dim = ORIENTATIONS * SCALES + 2 * 3 * 2 + 6

    def features(self, x: Tensor) -> Tensor:
        """Patch features (B, N, 42); see the class."""
        x = x.float()
        balanced = GREY * x / (x.mean(dim=(2, 3), keepdim=True) + GREY_FLOOR)
        channels = F.conv2d(balanced, self.opponent)
        luminance, colour = channels[:, :1], channels[:, 1:]
        maps = []
        for octave in range(SCALES):
            maps.append(self._pooled_energy(luminance, self.luminance_filters, octave))
            if octave in (1, 2):
                batch, two, height, width = colour.shape
                flat = colour.reshape(batch * two, 1, height, width)
                pooled = self._pooled_energy(flat, self.colour_filters, octave)
                maps.append(pooled.reshape(batch, -1, *pooled.shape[2:]))
            if octave < SCALES - 1:
                luminance, colour = F.avg_pool2d(luminance, 2), F.avg_pool2d(colour, 2)
        mean = self._pool(channels, self.patch_size)
        square = self._pool(channels.square(), self.patch_size)
        deviation = (square - mean.square()).clamp_min(0.0)
        maps += [4.0 * mean, torch.log(torch.sqrt(deviation + FLOOR**2))]
        return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)

    def _pooled_energy(self, channel: Tensor, filters: Tensor, octave: int) -> Tensor:
        padded = F.pad(channel, (RADIUS,) * 4, mode="replicate")
        even, odd = F.conv2d(padded, filters).chunk(2, dim=1)
        energy = torch.sqrt(even.square() + odd.square() + FLOOR**2)
        return torch.log(self._pool(energy, self.patch_size >> octave))

    def _pool(self, maps: Tensor, patch: int) -> Tensor:
        """Mean over each patch and its eight neighbours."""
        if patch > 1:
            maps = F.avg_pool2d(maps, patch)
        return F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


def gabor(orientations: int) -> Tensor:
    """Even and odd Gabor filters without response to a constant, of unit L1 norm.

    Parameters
    ----------
    orientations : int
        Number of orientations, evenly spread over half a turn.

    Returns
    -------
    Tensor, (2 * orientations, 1, 9, 9), float32
        All even filters, then all odd ones.
    """
    axis = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    window = torch.exp(-(x.square() + y.square()) / (2 * (RADIUS / 2.2) ** 2))
    even, odd = [], []
    for index in range(orientations):
        angle = math.pi * index / orientations
        phase = 2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / WAVELENGTH
        cosine, sine = window * torch.cos(phase), window * torch.sin(phase)
        cosine = cosine - window * (cosine.sum() / window.sum())
        even.append(cosine / cosine.abs().sum())
        odd.append(sine / sine.abs().sum())
    return torch.stack([*even, *odd]).unsqueeze(1).float()
