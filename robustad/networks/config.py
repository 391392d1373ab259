"""What a trainable network is built of: every choice by name, checked."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# The study's ViT has patches of 14 pixels: convolutional bodies take the same grid by default.
PATCH = 14


class BigBirdConfig(BaseModel):
    """The pattern of block-sparse attention; see `robustad.networks.bigbird`.

    Attributes
    ----------
    block_size : int >= 1, default 16
        Patches a block; divides the number of patches. At 224 pixels and patches of 14, a block of
        16 is one row of the grid.
    window : odd int >= 1, default 3
        Neighbouring blocks seen, the own one among them.
    global_blocks : int >= 0, default 1
        Leading blocks that see all and are seen by all, besides the prefix tokens.
    random_blocks : int >= 0, default 2
        Further blocks seen, drawn once for every layer.
    seed : int >= 0, default 0
        Of that draw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    block_size: int = Field(default=16, ge=1)
    window: int = Field(default=3, ge=1)
    global_blocks: int = Field(default=1, ge=0)
    random_blocks: int = Field(default=2, ge=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _odd_window(self) -> Self:
        if self.window % 2 == 0:
            raise ValueError(f"window: expected an odd number of blocks, got {self.window}")
        return self


class NetworkConfig(BaseModel):
    """Everything needed to build a `PatchNetwork` again, apart from its weights.

    Attributes
    ----------
    body : str, default "vit_small_patch14_dinov2"
        The name of any plain vision transformer of timm (registers and pretrained tags included),
        `resnet18` ... `resnet152` (each patch scored on its own), or `unet` (each pixel scored).
    image_size : int >= 1, default 224
        Edge in pixels of the square images; a whole multiple of patches.
    patch_size : int >= 1, optional
        Edge of a patch in pixels; by default the ViT's own, and 14 for other bodies. A U-Net scores
        pixels; there it is the patch whose share of the image a `top_k` stands for.
    depth, embed_dim, num_heads : int >= 1, optional
        Blocks, width and heads of a ViT; by default its own.
    mlp_ratio : float > 0, optional
        Width of a ViT's hidden layers in units of `embed_dim`; by default its own.
    stem : {"patch", "conv"}, default "patch"
        From pixels to a ViT's tokens: one convolution as large as a patch, or 3 x 3 convolutions of
        stride 2 (`robustad.networks.stem`; patches of a power of two), which learn faster from
        few images.
    layer_scale : float > 0, None or "model", default "model"
        Initial factor on every residual branch of a ViT; None for no such factor, "model" for
        timm's. DINOv2's is 1e-5: with random weights, its blocks do nearly nothing at first.
    attention : {"full", "bigbird"}, default "full"
        Attention of a ViT's blocks; the discriminator's is always full.
    bigbird : BigBirdConfig
        The pattern of `bigbird`.
    discriminator : bool, default True
        Put one more transformer layer, of attention over all patches, on a ViT; without it the MLP
        sits on the ViT's last block. Other bodies have none.
    discriminator_layers : int >= 1, default 1
        Transformer layers of the discriminator.
    discriminator_heads : int >= 1, default 4
        Heads; a divisor of the ViT's width. `robustad.ops.attention_degree` takes heads of up to
        128 channels: with widths over 512, take more heads to use it.
    discriminator_hidden : int >= 1, default 2048
        Hidden width of the MLP, with and without a discriminator.
    discriminator_dropout : float in [0, 1), default 0.2
        In training, of attention entries, of both residual branches and in the MLP.
    resnet_stem : {"patch", "imagenet"}, default "patch"
        First layers of a ResNet. "patch": one 3 x 3 convolution of stride 2, so that 14 pixels go
        through the stages as 7, 4, 2, 1. "imagenet": the usual 7 x 7 of stride 2 and max-pooling,
        which leaves 4, 2, 1, 1 for 0.4 of the work.
    unet_width : int >= 1, default 64
        Channels of a U-Net at full resolution; doubled at each level.
    unet_depth : int >= 1, default 4
        Times it halves the resolution; `image_size` is a multiple of `2 ** unet_depth`.

    Raises
    ------
    pydantic.ValidationError
        If a field is unknown, out of range, or means nothing for the body.

    Examples
    --------
    >>> NetworkConfig(image_size=56, depth=2).body
    'vit_small_patch14_dinov2'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    body: str = Field(default="vit_small_patch14_dinov2", pattern=r"^[a-z][a-z0-9_]*(\.\w+)?$")
    image_size: int = Field(default=224, ge=1, le=4096)
    patch_size: int | None = Field(default=None, ge=1)
    depth: int | None = Field(default=None, ge=1)
    embed_dim: int | None = Field(default=None, ge=1)
    num_heads: int | None = Field(default=None, ge=1)
    mlp_ratio: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    stem: Literal["patch", "conv"] = "patch"
    layer_scale: float | Literal["model"] | None = "model"
    attention: Literal["full", "bigbird"] = "full"
    bigbird: BigBirdConfig = BigBirdConfig()
    discriminator: bool = True
    discriminator_layers: int = Field(default=1, ge=1)
    discriminator_heads: int = Field(default=4, ge=1)
    discriminator_hidden: int = Field(default=2048, ge=1)
    discriminator_dropout: float = Field(default=0.2, ge=0, lt=1)
    resnet_stem: Literal["patch", "imagenet"] = "patch"
    unet_width: int = Field(default=64, ge=1)
    unet_depth: int = Field(default=4, ge=1)

    @property
    def family(self) -> Literal["vit", "resnet", "unet"]:
        """Which kind of network `body` names."""
        if self.body == "unet":
            return "unet"
        return "resnet" if self.body.split(".")[0] in RESNETS else "vit"

    @property
    def shrinking(self) -> dict[str, int | float]:
        """Options that change the shapes of a ViT's weights, where they are given."""
        options = {name: getattr(self, name) for name in ("depth", "embed_dim", "num_heads")}
        options["mlp_ratio"] = self.mlp_ratio
        if self.family == "vit":
            options["patch_size"] = self.patch_size
        return {name: value for name, value in options.items() if value is not None}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        scale = self.layer_scale
        if isinstance(scale, float) and not 0 < scale < float("inf"):
            raise ValueError(f"layer_scale: expected > 0, None or 'model', got {scale}")
        if self.family == "vit":
            return self
        for name, value in self.shrinking.items():
            raise ValueError(
                f"{name}: only vision transformers take it, got {value} for {self.body}"
            )
        if self.stem != "patch":
            raise ValueError(f"stem: only vision transformers take it, body is {self.body}")
        if self.attention != "full" or scale != "model":
            name = "attention" if self.attention != "full" else "layer_scale"
            raise ValueError(f"{name}: only vision transformers take it, body is {self.body}")
        patch = self.patch_size or PATCH
        if self.image_size % patch:
            raise ValueError(
                f"image_size: expected a multiple of the patch's {patch} pixels, "
                f"got {self.image_size}"
            )
        if self.family == "unet" and self.image_size % 2**self.unet_depth:
            raise ValueError(
                f"image_size: expected a multiple of {2**self.unet_depth} pixels for a U-Net of "
                f"depth {self.unet_depth}, got {self.image_size}"
            )
        return self
