import pytest
from pydantic import ValidationError

from robustad.backbones import DEFAULT, BackboneConfig, FilterBank, create
from robustad.backbones.timm_cnn import TimmCNN
from robustad.backbones.timm_vit import TimmViT
from robustad.errors import InputError


def test_names_choose_the_kind():
    assert isinstance(create("filters"), FilterBank)
    assert isinstance(create("test_vit", "random"), TimmViT)
    assert isinstance(create("test_resnet", "random"), TimmCNN)
    assert DEFAULT == "vit_small_patch14_dinov2.lvd142m"


@pytest.mark.parametrize(
    ("name", "layers"), [("filters", None), ("test_vit", None), ("test_resnet", (1, 2))]
)
def test_a_configuration_builds_the_same_again(name, layers):
    chosen = None if name == "filters" else "random"
    made = create(name, chosen, layers=layers)
    assert made.config == BackboneConfig(name=name, layers=layers)
    config = BackboneConfig.model_validate_json(made.config.model_dump_json())
    again = create(config.name, chosen, layers=config.layers)
    assert again.config == made.config
    assert (again.patch_size, again.multiple, again.dim) == (
        made.patch_size,
        made.multiple,
        made.dim,
    )
    assert not made.training


def test_default_levels_are_kept_in_the_configuration():
    assert create("resnet18", "random").config.layers == (2, 3)


def test_a_configuration_is_strict():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        BackboneConfig(name="filters", stages=3)
    with pytest.raises(ValidationError, match="frozen"):
        BackboneConfig(name="filters").name = "resnet18"


@pytest.mark.parametrize("options", [{"weights": "random"}, {"layers": (2,)}])
def test_filters_take_no_options(options):
    message = r"^backbone 'filters' takes no weights, layers or normalisation$"
    with pytest.raises(InputError, match=message):
        create("filters", **options)
