"""PatchGuard: a network trained on attacked images, as a detector."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from robustad.detectors.base import Detector
from robustad.errors import InputError
from robustad.geometry import Geometry
from robustad.networks import NetworkConfig, PatchNetwork, create
from robustad.networks.config import PATCH

PREFIX = "network."


class PatchGuardConfig(BaseModel):
    """Options of `PatchGuard`, as saved; see there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: NetworkConfig
    top_k: int = Field(ge=1)
    map_sigma: float = Field(ge=0, allow_inf_nan=False)
    map_radius: int | None = Field(ge=1)


class PatchGuard(Detector):
    """Patch logits of a network that `robustad.training` trains on attacked images.

    Parameters
    ----------
    network : NetworkConfig, PatchNetwork or str, default "vit_small_patch14_dinov2"
        What to build (see `robustad.networks.create`), or a network, which is not copied.
    weights : str, Path or None, default None
        See `robustad.networks.create`; random by default. None if `network` is built already.
    top_k : int, default 5
        The image score is the mean of this many of the largest patch logits; for a U-Net, of the
        share of pixels that so many patches would be.
    map_sigma : float >= 0, default 6
        Standard deviation in pixels of the Gaussian that smooths the anomaly map.
    map_radius : int >= 1 or None, default 7
        Where that Gaussian is cut, in pixels; None for 4 `map_sigma`.

    Attributes
    ----------
    network : PatchNetwork
        The network, in evaluation mode once the detector is built.

    Raises
    ------
    InputError
        If an option is out of range or does not fit the network.
    WeightsError
        If the body is unknown or its weights cannot be had.

    Notes
    -----
    Nafez et al., "PatchGuard", CVPR 2025. Images are stretched to squares of `image_size` pixels.
    A detector that nobody trained scores at random, but can be attacked and saved as any other.

    Examples
    --------
    >>> import numpy as np
    >>> from robustad.networks import NetworkConfig
    >>> small = NetworkConfig(image_size=56, depth=1, embed_dim=32, num_heads=2)
    >>> detector = PatchGuard(small)
    >>> prediction = detector.predict(np.random.default_rng(0).random((60, 80, 3)))
    >>> prediction.patch_scores[0].shape, prediction.anomaly_map[0].shape
    ((4, 4), (60, 80))
    """

    method: ClassVar[str] = "patchguard"
    scores_are_logits: ClassVar[bool] = True

    def __init__(
        self,
        network: NetworkConfig | PatchNetwork | str = "vit_small_patch14_dinov2",
        weights: str | Path | None = None,
        *,
        top_k: int = 5,
        map_sigma: float = 6.0,
        map_radius: int | None = 7,
    ) -> None:
        if not isinstance(network, PatchNetwork):
            network = create(network, weights)
        elif weights is not None:
            raise InputError(
                f"weights: expected None with a network that is built, got {weights!r}"
            )
        rows, columns = scored_grid(network)
        if (
            isinstance(top_k, bool)
            or not isinstance(top_k, int)
            or not 1 <= top_k <= rows * columns
        ):
            raise InputError(f"top_k: expected 1..{rows * columns} patches, got {top_k!r}")
        pixelwise = network.grid != (rows, columns)
        super().__init__(
            geometry=Geometry(size=network.image_size, multiple=network.patch_size, square=True),
            top_fraction=top_k / (rows * columns) if pixelwise else top_k,
            map_sigma=map_sigma,
            map_radius=map_radius,
        )
        self.top_k = top_k
        self.network = network
        self.eval()

    def patch_scores(self, x: Tensor) -> Tensor:
        """Patch logits; see `Detector.patch_scores`.

        Returns
        -------
        Tensor, (B, N), float32
            Higher is more anomalous; a U-Net's are pixels. Unbounded.
            float32 also under autocast.
        """
        logits: Tensor = self.network(x)[0]
        return logits.float()

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch grid, always those of `image_size`.

        Raises
        ------
        InputError
            If height or width is another one.
        """
        if (height, width) != (self.network.image_size, self.network.image_size):
            raise InputError(
                f"size: expected {self.network.image_size} x {self.network.image_size} pixels, "
                f"got {height} x {width}"
            )
        return self.network.grid

    def config(self) -> PatchGuardConfig:
        """Options as they are saved.

        Raises
        ------
        InputError
            If the network was not built from a `NetworkConfig`.
        """
        if not isinstance(getattr(self.network, "config", None), NetworkConfig):
            raise InputError(
                f"network: expected one of robustad.networks.create to save, got "
                f"{type(self.network).__name__}, which has no NetworkConfig"
            )
        return PatchGuardConfig(
            network=self.network.config,
            top_k=self.top_k,
            map_sigma=self.map_sigma,
            map_radius=self.map_radius,
        )

    def saved_tensors(self) -> dict[str, Tensor]:
        """The network's weights."""
        state = self.network.state_dict(prefix=PREFIX)
        return {name: value.detach().clone() for name, value in state.items()}

    @classmethod
    def from_config(cls, config: dict[str, object], tensors: dict[str, Tensor]) -> Self:
        """Rebuild a saved detector; see `robustad.load`.

        Raises
        ------
        InputError
            If a tensor is missing, unknown, of another shape or type, or not finite.
        """
        options = PatchGuardConfig.model_validate(config)
        with torch.random.fork_rng(devices=[]):  # nobody's random numbers change by loading
            network = create(options.network)
        body = options.network.body
        own = network.state_dict(prefix=PREFIX)
        for name in (*own, *tensors):
            if name not in tensors or name not in own:
                which = "is missing" if name not in tensors else f"is none of {body}'s"
                raise InputError(f"{name}: this tensor {which}")
            found, expected = tensors[name], own[name]
            if found.shape != expected.shape or found.dtype != expected.dtype:
                raise InputError(
                    f"{name}: expected {expected.dtype} {tuple(expected.shape)} for {body}, got "
                    f"{found.dtype} {tuple(found.shape)}"
                )
            if not bool(torch.isfinite(found).all()):
                raise InputError(f"{name}: expected finite weights, got NaN or infinity")
        network.load_state_dict({k.removeprefix(PREFIX): v for k, v in tensors.items()})
        return cls(network, **options.model_dump(exclude={"network"}))


def scored_grid(network: PatchNetwork) -> tuple[int, int]:
    """Rows and columns of the patches that `top_k` counts; a pixel-wise network's are a ViT's."""
    config = getattr(network, "config", None)
    if config is None or config.family != "unet":
        return network.grid
    edge = network.image_size // (config.patch_size or PATCH)
    return edge, edge
