import pytest
from pydantic import ValidationError

from robustad.errors import InputError, WeightsError
from robustad.networks import BigBirdConfig, NetworkConfig, create


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"body": "Not a name"}, "body"),
        ({"body": ""}, "body"),
        ({"image_size": 0}, "image_size"),
        ({"depth": 0}, "depth"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio"),
        ({"layer_scale": 0.0}, "layer_scale: expected > 0, None or 'model', got 0.0"),
        ({"layer_scale": float("nan")}, "layer_scale: expected > 0"),
        ({"layer_scale": "none"}, "layer_scale"),
        ({"attention": "sparse"}, "attention"),
        ({"discriminator_heads": 0}, "discriminator_heads"),
        ({"discriminator_dropout": 1.0}, "discriminator_dropout"),
        ({"discriminator_hidden": 0}, "discriminator_hidden"),
        ({"discriminator_layers": 0}, "discriminator_layers"),
        ({"bigbird": {"window": 2}}, "window: expected an odd number of blocks, got 2"),
        ({"bigbird": {"block_size": 0}}, "block_size"),
        ({"width": 3}, "width"),
        ({"body": "unet", "depth": 3}, "depth: only vision transformers take it, got 3 for unet"),
        ({"body": "resnet50", "attention": "bigbird"}, "attention: only vision transformers"),
        ({"body": "resnet50", "layer_scale": None}, "layer_scale: only vision transformers"),
        ({"body": "resnet50", "image_size": 100}, "multiple of the patch's 14 pixels, got 100"),
        ({"body": "unet", "image_size": 84}, "multiple of 16 pixels for a U-Net of depth 4"),
        ({"resnet_stem": "deep"}, "resnet_stem"),
        ({"unet_width": 0}, "unet_width"),
    ],
)
def test_bad_fields_are_named(options, message):
    with pytest.raises(ValidationError, match=message):
        NetworkConfig(**options)


def test_config_survives_json_and_is_frozen():
    config = NetworkConfig(
        body="unet", image_size=112, patch_size=16, bigbird=BigBirdConfig(seed=3)
    )
    assert NetworkConfig.model_validate_json(config.model_dump_json()) == config
    assert NetworkConfig(layer_scale=None).model_dump(mode="json")["layer_scale"] is None
    with pytest.raises(ValidationError, match="frozen"):
        config.depth = 3


@pytest.mark.parametrize(
    ("body", "family"),
    [
        ("vit_base_patch16_224.augreg_in21k", "vit"),
        ("resnet50", "resnet"),
        ("resnet50.a1_in1k", "resnet"),
        ("unet", "unet"),
    ],
)
def test_family_follows_the_body(body, family):
    size = 112 if family == "unet" else 224
    assert NetworkConfig(body=body, image_size=size).family == family


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"body": "vit_enormous"}, WeightsError, "timm has no such model"),
        ({"body": "convnext_atto", "image_size": 32}, InputError, "body"),
        ({"body": "deit_tiny_distilled_patch16_224"}, InputError, "plain vision transformer"),
        ({"body": "vit_wee_patch16_reg1_gap_256", "patch_size": 15}, InputError, "15 x 15 pixels"),
        ({"image_size": 60}, InputError, "image_size: expected a multiple .* 14 x 14 pixels"),
        ({"embed_dim": 32, "num_heads": 3, "depth": 1}, InputError, "'num_heads': 3"),
        (
            {"embed_dim": 30, "num_heads": 2, "depth": 1},
            InputError,
            "discriminator_heads: expected a divisor of the 30 channels, got 4",
        ),
        (
            {"embed_dim": 32, "num_heads": 2, "depth": 1, "image_size": 56, "attention": "bigbird"}
            | {"bigbird": {"block_size": 3}},
            InputError,
            "bigbird.block_size: expected a divisor of the 16 patches, got 3",
        ),
    ],
)
def test_what_does_not_fit_the_body_is_said(options, error, message):
    with pytest.raises(error, match=message):
        create(NetworkConfig(**options))


def test_create_takes_a_name():
    with pytest.raises(InputError, match=r"network: .* got 'no such'"):
        create("no such")
    with pytest.raises(WeightsError, match="timm has no such model"):
        create("vit_enormous")
