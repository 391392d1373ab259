import pytest
from pydantic import ValidationError

from robustad.data import categories, names
from robustad.errors import InputError
from robustad.pseudo import PseudoConfig, published
from robustad.pseudo.bounds import _PUBLISHED, scaled


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"levels": (0.5, 0.5, 0.5)}, "levels: expected probabilities that sum to 1"),
        ({"size": (30, 20)}, "size: expected .low, high. with low <= high, got .30, 20."),
        ({"rotation": (10.0, -10.0)}, "rotation: expected"),
        ({"opacity": (0.9, 0.5)}, "opacity: expected"),
        ({"opacity": (0.0, 1.0)}, "greater than 0"),
        ({"transformations": ("blur", "blur")}, "transformations: expected each at most once"),
        ({"transformations": ("warp",)}, "Input should be 'colour'"),
        ({"count": 0}, "greater than or equal to 1"),
        ({"colour": True}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_values_are_named(given, message):
    with pytest.raises(ValidationError, match=message):
        PseudoConfig(**given)


def test_it_is_frozen_and_survives_json():
    config = PseudoConfig(size=(9, 35), transformations=("colour", "blur"))
    with pytest.raises(ValidationError):
        config.count = 2
    assert PseudoConfig.model_validate_json(config.model_dump_json()) == config


def test_published_bounds_belong_to_categories_that_exist():
    for dataset, bounds in _PUBLISHED.items():
        assert dataset in names()
        assert set(bounds) - {""} <= set(categories(dataset))
        assert all(2 <= low < high <= 86 for low, high in bounds.values())


@pytest.mark.parametrize(
    ("dataset", "category", "expected"),
    [
        ("mvtec", "screw", (9, 35)),
        ("mvtec", "wood", (14, 86)),
        ("visa", "fryum", (6, 15)),
        ("mpdd", "tubes", (6, 86)),
        ("mpdd", "metal_plate", (14, 86)),
        ("wfdd", "grid_cloth", (9, 86)),
        ("surfaces", "tray", (14, 86)),
    ],
)
def test_published_bounds(dataset, category, expected):
    assert published(dataset, category) == expected


def test_scaling_rounds_and_stays_in_the_image():
    assert scaled((14, 86), 224) == (14, 86)
    assert scaled((14, 86), 64) == (4, 25)
    assert scaled((6, 15), 32) == (2, 2)
    assert scaled((14, 400), 224) == (14, 224)
    with pytest.raises(InputError, match="least patch edge of 225 pixels"):
        scaled((225, 300), 224)
