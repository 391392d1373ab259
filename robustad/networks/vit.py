"""Vision transformers from timm, with a head that gives one logit a patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustad.backbones.timm_vit import register_normalisation
from robustad.backbones.weights import build
from robustad.errors import InputError
from robustad.networks.attention import SelfAttention
from robustad.networks.base import Attention, PatchNetwork
from robustad.networks.bigbird import BigBirdAttention
from robustad.networks.config import NetworkConfig
from robustad.networks.discriminator import Discriminator, PatchMLP
from robustad.networks.stem import conv_stem
from robustad.networks.weights import named_weights


class ViTNetwork(PatchNetwork):
    """A timm vision transformer and the attention discriminator (or an MLP) on its patch tokens.

    Parameters
    ----------
    config : NetworkConfig
        With the name of a ViT as `body`.
    weights : str, Path or None, default None
        See `robustad.networks.create`.

    Attributes
    ----------
    prefix_tokens : int
        Class token and registers; no logits are made of them.

    Raises
    ------
    InputError
        If the model is no plain ViT, or an option does not fit it.
    WeightsError
        If the model is unknown or its weights cannot be had.

    Notes
    -----
    Images are normalised by the mean and standard deviation of the model's own configuration.
    Position embeddings are resampled to `image_size` when weights are loaded. Tokens are those
    after the model's final normalisation, also where timm has it after its pooling.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig, weights: str | Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        model = _timm_vit(config, weights)
        self.body = model
        self.prefix_tokens = int(model.num_prefix_tokens)
        self.patch_size = int(model.patch_embed.patch_size[0])
        patches = (self.image_size // self.patch_size) ** 2
        if config.stem == "conv":
            model.patch_embed.proj = conv_stem(self.patch_size, int(model.embed_dim))
        for index, block in enumerate(model.blocks):
            if config.attention == "bigbird":
                block.attn = BigBirdAttention.of_timm(
                    block.attn,
                    patches=patches,
                    prefix_tokens=self.prefix_tokens,
                    config=config.bigbird,
                    layer=index,
                )
            else:
                block.attn = SelfAttention.of_timm(block.attn)
        dim = int(model.embed_dim)
        hidden, dropout = config.discriminator_hidden, config.discriminator_dropout
        self.head: Discriminator | PatchMLP
        if config.discriminator:
            self.head = Discriminator(
                dim,
                patches,
                heads=config.discriminator_heads,
                hidden=hidden,
                dropout=dropout,
                layers=config.discriminator_layers,
            )
        else:
            self.head = PatchMLP(dim, hidden=hidden, dropout=dropout)
        blocks = [f"block {i + 1}" for i in range(len(model.blocks))]
        self.attention_layers = (*blocks, *self.head.attention_layers)
        register_normalisation(self, model.pretrained_cfg)

    def forward(self, x: Tensor, attention: Sequence[str] = ()) -> tuple[Tensor, list[Attention]]:
        """Patch logits and attention; see `PatchNetwork.forward`."""
        self.check(x, attention)
        tokens, taken = self.tokens(x, attention)
        logits, more = self.head(tokens, attention)
        found = {one.layer: one for one in (*taken, *more)}
        return logits, [found[layer] for layer in attention]

    def tokens(self, x: Tensor, attention: Sequence[str] = ()) -> tuple[Tensor, list[Attention]]:
        """Patch tokens (B, N, D) after the final normalisation, and attention of the blocks.

        Parameters
        ----------
        x, attention
            As for `forward`; names of the head's layers are passed over.
        """
        model: Any = self.body
        x = model.patch_embed((x - self.mean) / self.std)
        x = model.norm_pre(model.patch_drop(model._pos_embed(x)))
        taken = []
        for name, block in zip(self.attention_layers, model.blocks, strict=False):
            if name not in attention:
                x = block(x)
                continue
            x, q, k = _tapped(block, x)
            attn = block.attn
            taken.append(
                Attention(
                    name, q, k, self.prefix_tokens, attn.scale, getattr(attn, "allowed", None)
                )
            )
        x = model.fc_norm(model.norm(x))  # a model has one of them
        return x[:, self.prefix_tokens :], taken


def _tapped(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens after a block of timm's, with queries and keys of its attention."""
    if hasattr(block, "ls1"):
        attended, q, k = block.attn.attend(block.norm1(x))
        x = x + block.drop_path1(block.ls1(attended))
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), q, k
    attended, q, k = block.attn.attend(x)
    x = x + block.drop_path1(block.norm1(attended))
    return x + block.drop_path2(block.norm2(block.mlp(x))), q, k


def _timm_vit(config: NetworkConfig, weights: str | Path | None) -> Any:
    """Build timm's model for the image size, checked, without what is not trained."""
    import timm
    from timm.models import vision_transformer

    name, weights = named_weights(config, weights)
    options: dict[str, Any] = {"img_size": config.image_size, **config.shrinking}
    create: Callable[..., nn.Module] = timm.create_model
    if config.layer_scale is None:
        create = _without_layer_scale  # timm takes None for "as usual"
    elif config.layer_scale != "model":
        options["init_values"] = config.layer_scale
    try:
        model: Any = build(create, name, weights, num_classes=0, **options)
    except (AssertionError, IndexError, TypeError) as error:
        raise InputError(f"body: {name!r} cannot be built with {options}: {error}") from error
    kinds = (vision_transformer.Block, vision_transformer.ResPostBlock)
    if type(model) is not vision_transformer.VisionTransformer or not all(
        type(block) in kinds for block in model.blocks
    ):
        raise InputError(
            f"body: expected a plain vision transformer of timm, resnet50 or unet, got {name!r} "
            f"({type(model).__name__})"
        )
    patch = model.patch_embed.patch_size
    if patch[0] != patch[1] or config.image_size % patch[0]:
        raise InputError(
            f"image_size: expected a multiple of the patch's {patch[0]} x {patch[1]} pixels, "
            f"got {config.image_size}"
        )
    if model.attn_pool is not None:
        model.reset_classifier(0, "")
    return model.train()


def _without_layer_scale(name: str, **options: Any) -> Any:
    """Build timm's model with residual branches that start at full strength."""
    import timm

    model: Any = timm.create_model(name, **options)
    for block in model.blocks:
        if hasattr(block, "ls1"):
            block.ls1, block.ls2 = nn.Identity(), nn.Identity()
        elif hasattr(block, "init_values"):  # the factor is the normalisation's
            nn.init.ones_(block.norm1.weight)
            nn.init.ones_(block.norm2.weight)
    return model
