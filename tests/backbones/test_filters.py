import math

import pytest
import torch

from robustad.backbones import FilterBank
from robustad.backbones.filters import (
    FLOOR,
    GREY,
    GREY_FLOOR,
    ORIENTATIONS,
    RADIUS,
    SCALES,
    WAVELENGTH,
    gabor,
)
from robustad.errors import InputError

# Columns of the vector: luminance energies of each octave, colour energies of two, means, spreads.
LUMINANCE = [range(start, start + ORIENTATIONS) for start in (0, 6, 18, 30)]
COLOUR = [(range(12, 15), range(15, 18)), (range(24, 27), range(27, 30))]
MEAN, SPREAD = range(36, 39), range(39, 42)
ENERGIES = range(36)


@pytest.fixture(scope="module")
def bank():
    return FilterBank()


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def grating(angle, wavelength, size=96, colour=(1.0, 1.0, 1.0)):
    """A sine of the given wavelength in pixels; `angle` points across its stripes."""
    axis = torch.arange(size, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    wave = torch.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / wavelength)
    weights = torch.tensor(colour, dtype=torch.float64).view(1, 3, 1, 1)
    return (0.5 + 0.3 * weights * wave).float()


def inner(features, size):
    """Features (D,) of a patch in the middle, away from the padding."""
    side = size // 8
    return features[0].reshape(side, side, -1)[side // 2, side // 2]


# Shape


@pytest.mark.parametrize(
    "size", [(8, 8), (8, 64), (64, 8), (16, 24), (72, 40), (96, 96), (448, 64)]
)
def test_shape(bank, size):
    features = bank(noise(2, 3, *size))
    assert features.shape == (2, size[0] // 8 * (size[1] // 8), bank.dim)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert bank.grid(*size) == (size[0] // 8, size[1] // 8)
    assert bank.dim == 42


def test_it_has_no_weights_and_is_the_same_each_time(bank):
    assert not FilterBank.has_weights
    assert bank.state_dict() == {}
    assert list(bank.parameters()) == []
    x = noise(1, 3, 40, 48)
    assert torch.equal(FilterBank()(x), bank(x))
    assert torch.equal(bank(x), bank(x))


def test_images_of_a_batch_do_not_meet(bank):
    x = noise(3, 3, 40, 48)
    one_by_one = torch.cat([bank(image[None]) for image in x])
    torch.testing.assert_close(bank(x), one_by_one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_computed_in_float32(bank, dtype):
    x = (noise(1, 3, 24, 24) * 255).round().div(255).to(dtype)
    assert torch.equal(bank(x), bank(x.float()))


def test_rows_run_before_columns(bank):
    x = torch.full((1, 3, 64, 96), 0.5)
    spot = noise(8, 8)
    x[:, :, 16:24, 40:48] += 0.5 * (spot - spot.mean())  # row 2, column 5; the balance stays
    change = (bank(x) - bank(torch.full((1, 3, 64, 96), 0.5))).abs().sum(dim=2).reshape(8, 12)
    assert change.argmax() == 2 * 12 + 5
    assert change[6:].max() < 1e-4


# What the filters respond to


def test_filters_are_gabors_without_response_to_a_constant():
    filters = gabor(6).double().squeeze(1)
    even, odd = filters.chunk(2)
    assert filters.shape == (12, 2 * RADIUS + 1, 2 * RADIUS + 1)
    torch.testing.assert_close(filters.sum(dim=(1, 2)), torch.zeros(12).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(filters.abs().sum(dim=(1, 2)), torch.ones(12).double())
    torch.testing.assert_close(even, even.flip(1, 2), rtol=0, atol=1e-8)
    torch.testing.assert_close(odd, -odd.flip(1, 2), rtol=0, atol=1e-8)
    # a quarter turn leads from one orientation to the one three further on
    torch.testing.assert_close(even[0].t(), even[3], rtol=0, atol=1e-8)


@pytest.mark.parametrize("octave", range(SCALES))
@pytest.mark.parametrize("orientation", range(ORIENTATIONS))
def test_a_grating_is_seen_by_its_own_filter(bank, octave, orientation):
    angle = math.pi * orientation / ORIENTATIONS
    x = grating(angle, WAVELENGTH * 2**octave, size=192)
    features = inner(bank(x), 192)
    assert features[LUMINANCE[octave]].argmax() == orientation
    # and by its own octave best, up to what averaging takes from the finer ones
    at = [float(features[columns][orientation]) for columns in LUMINANCE]
    assert max(at) == at[octave]
    # a grey image has no colour: its energies stay on the floor
    silent = features[[*COLOUR[0][0], *COLOUR[0][1], *COLOUR[1][0], *COLOUR[1][1]]]
    torch.testing.assert_close(silent, torch.full((12,), math.log(FLOOR)), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("colour", "own", "other"), [((1, -1, 0), 0, 1), ((-0.5, -0.5, 1), 1, 0)])
@pytest.mark.parametrize("orientation", range(3))
def test_a_coloured_grating_is_seen_by_its_opponent_channel(bank, colour, own, other, orientation):
    x = grating(math.pi * orientation / 3, WAVELENGTH * 2, colour=colour)
    features = inner(bank(x), 96)
    assert features[COLOUR[0][own]].argmax() == orientation
    quiet = torch.cat([features[COLOUR[0][other]], *(features[columns] for columns in LUMINANCE)])
    assert quiet.max() < math.log(FLOOR) + 0.05
    assert features[COLOUR[0][own]].max() > math.log(FLOOR) + 1


def test_a_quarter_turn_moves_the_orientations(bank):
    x = noise(1, 3, 64, 64)
    side = 8
    plain = bank(x).reshape(side, side, -1).rot90(-1)
    turned = bank(x.rot90(-1, dims=(2, 3))).reshape(side, side, -1)
    for columns in LUMINANCE:
        rolled = plain[..., columns].roll(3, dims=-1)
        torch.testing.assert_close(turned[..., columns], rolled, rtol=0, atol=1e-4)
    rest = [*MEAN, *SPREAD]
    torch.testing.assert_close(turned[..., rest], plain[..., rest], rtol=0, atol=1e-4)


def test_a_mirror_image_reflects_the_orientations(bank):
    x = noise(1, 3, 64, 64)
    plain = bank(x).reshape(8, 8, -1).flip(1)
    mirrored = bank(x.flip(3)).reshape(8, 8, -1)
    for columns in (*LUMINANCE, *COLOUR[0], *COLOUR[1]):
        count = len(columns)
        order = [columns[-i % count] for i in range(count)]
        torch.testing.assert_close(mirrored[..., columns], plain[..., order], rtol=0, atol=1e-4)


def balanced(x):
    """Grey world, in float64."""
    x = x.double()
    return GREY * x / (x.mean(dim=(2, 3), keepdim=True) + GREY_FLOOR)


@pytest.mark.parametrize("gain", [0.7, 1.2, 1.5])
def test_a_constant_moves_the_means_alone(bank, gain):
    # gain * x + 0.05 (gain - 1) has the balanced image of x, plus a constant
    x = 0.3 + 0.3 * noise(1, 3, 64, 64)
    moved = gain * x + GREY_FLOOR * (gain - 1)
    assert 0 <= moved.min() <= moved.max() <= 1
    change = (bank(moved) - bank(x))[0]
    assert change[:, ENERGIES].abs().max() < 1e-4
    assert change[:, SPREAD].abs().max() < 1e-3
    red, green, blue = (balanced(moved) - balanced(x)).mean(dim=(0, 2, 3)).float()
    opponent = [(red + green + blue) / 3, (red - green) / 2, blue / 2 - (red + green) / 4]
    expected = 4 * torch.stack(opponent).expand(64, 3)
    assert expected[0, 0].abs() > 0.01
    torch.testing.assert_close(change[:, MEAN], expected, rtol=0, atol=1e-5)


def test_exposure_and_colour_balance_count_for_little(bank):
    x = 0.2 + 0.6 * noise(1, 3, 64, 64)
    gains = torch.tensor([0.6, 0.8, 1.2]).view(1, 3, 1, 1)
    for moved in (0.7 * x, gains * x):
        change = (bank(moved) - bank(x))[0]
        # energies would move by |log 0.7| = 0.36 without the balance
        assert change[:, ENERGIES].abs().max() < 0.08
        assert change[:, MEAN].abs().max() < 0.2


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_a_plain_image_leaves_the_floor(bank, value):
    features = bank(torch.full((1, 3, 40, 40), value))[0]
    floor = torch.full((25, 1), math.log(FLOOR))
    torch.testing.assert_close(features[:, ENERGIES], floor.expand(-1, 36), rtol=0, atol=1e-4)
    torch.testing.assert_close(features[:, SPREAD], floor.expand(-1, 3), rtol=0, atol=1e-2)
    grey = GREY * value / (value + GREY_FLOOR)
    expected = torch.tensor([4 * grey, 0.0, 0.0]).expand(25, 3)
    torch.testing.assert_close(features[:, MEAN], expected, rtol=0, atol=1e-5)


def test_means_and_spreads_are_those_of_the_neighbourhood(bank):
    x = noise(1, 3, 40, 48)
    features = bank(x)[0].reshape(5, 6, -1)
    red, green, blue = balanced(x)[0]
    channels = torch.stack(
        [(red + green + blue) / 3, (red - green) / 2, blue / 2 - (red + green) / 4]
    )
    for row, column in [(0, 0), (2, 3), (4, 5), (0, 4)]:
        top, left = max(0, row - 1) * 8, max(0, column - 1) * 8
        window = channels[:, top : (row + 2) * 8, left : (column + 2) * 8]
        mean, spread = window.mean(dim=(1, 2)), window.var(dim=(1, 2), unbiased=False)
        torch.testing.assert_close(
            features[row, column, MEAN].double(), 4 * mean, rtol=0, atol=1e-5
        )
        expected = (spread + FLOOR**2).sqrt().log()
        torch.testing.assert_close(
            features[row, column, SPREAD].double(), expected, rtol=0, atol=1e-4
        )


def test_a_shift_by_one_patch_moves_the_features(bank):
    x = noise(1, 3, 128, 128)
    plain = bank(x).reshape(16, 16, -1)
    shifted = bank(x.roll(8, dims=3)).reshape(16, 16, -1)
    torch.testing.assert_close(shifted[:, 8:11], plain[:, 7:10], rtol=0, atol=1e-4)


# Gradients


@pytest.mark.parametrize(
    "x", [noise(1, 3, 24, 24), torch.zeros(1, 3, 24, 24), torch.full((1, 3, 24, 24), 0.5)]
)
def test_gradients_are_finite(bank, x):
    x = x.clone().requires_grad_()
    weight = noise(9, 42, seed=1)
    (bank(x) * weight).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


def test_the_gradient_is_the_slope(bank):
    x, weight, step = noise(1, 3, 24, 24), noise(9, 42, seed=1), noise(1, 3, 24, 24, seed=2) - 0.5

    def value(image):
        return (bank(image).double() * weight).sum()

    x.requires_grad_()
    slope = torch.autograd.grad(value(x), x)[0].mul(step).sum()
    with torch.no_grad():
        numeric = (value(x + 1e-3 * step) - value(x - 1e-3 * step)) / 2e-3
    assert numeric.item() == pytest.approx(slope.item(), rel=1e-2)


# Errors


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (3, 16, 16), (1, 4, 16, 16), (1, 16, 16, 3)])
def test_other_shapes(bank, shape):
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(
        InputError, match=rf"^x: expected a floating-point tensor \(B, 3, H, W\), got {got}"
    ):
        bank(torch.zeros(shape))


def test_integers_and_odd_sizes(bank):
    with pytest.raises(InputError, match=r"got \(1, 3, 16, 16\) of torch.uint8$"):
        bank(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    for size in ((16, 12), (15, 16), (0, 16)):
        with pytest.raises(
            InputError,
            match=rf"^x: expected height and width to be multiples of 8 pixels, got {size[0]} x "
            rf"{size[1]}; `prepare` resizes",
        ):
            bank(torch.zeros(1, 3, *size))
