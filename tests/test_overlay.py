import numpy as np
import pytest

from robustad.overlay import colours, overlay


def test_colours_run_along_the_ramp_and_are_clipped():
    ramp = colours(np.linspace(0, 1, 101))
    assert ramp.shape == (101, 3)
    assert ramp.dtype == np.float32
    assert (ramp >= 0).all()
    assert (ramp <= 1).all()
    lightness = ramp @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) > 0).all()
    assert np.array_equal(colours(np.array([-3.0, 7.0])), colours(np.array([0.0, 1.0])))
    assert colours(np.zeros((2, 3, 4))).shape == (2, 3, 4, 3)


def test_overlay_by_hand():
    image = np.full((1, 3, 3), 0.5, np.float32)
    heat = np.array([[2.0, 3.0, 6.0]], np.float32)
    made = overlay(image, heat, strength=0.8)
    assert made.dtype == np.uint8
    for column, share in enumerate((0.0, 0.25, 1.0)):
        opacity = 0.8 * share**0.5
        expected = 0.5 * (1 - opacity) + colours(np.array(share)) * opacity
        assert np.abs(made[0, column] / 255 - expected).max() < 0.5 / 255 + 1e-6


def test_limits_make_images_comparable():
    image = np.zeros((2, 2, 3), np.float32)
    heat = np.array([[0.0, 1.0], [2.0, 5.0]], np.float32)
    made = overlay(image, heat, low=1.0, high=2.0)
    assert np.array_equal(made[0, 0], made[0, 1])
    assert np.array_equal(made[1, 0], made[1, 1])
    assert not np.array_equal(made[0, 0], made[1, 0])


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_a_constant_map_leaves_the_image(value):
    image = np.random.default_rng(0).random((4, 5, 3), np.float32)
    made = overlay(image, np.full((4, 5), value, np.float32))
    assert np.array_equal(made, np.rint(image * 255).astype(np.uint8))
