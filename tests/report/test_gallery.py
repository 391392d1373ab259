import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from robustad.calibration import Platt
from robustad.report.gallery import TILE, Tile, amplification, cards


def _pixels(tile: Tile) -> np.ndarray:
    kind, data = tile.source.split(",", 1)
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) / 255


def test_order_rank_and_scores(evaluation, examples) -> None:
    shown = cards(examples[::-1], evaluation)
    assert [card.rank for card in shown] == [1, 2, 43, 44]
    assert [card.name for card in shown] == [example.name for example in examples]
    platt = Platt.from_dict(evaluation.calibration.calibrator)
    for card, example in zip(shown, examples, strict=True):
        assert card.clean.score == f"{example.clean_score:.3f}"
        assert card.attacked.score == f"{example.attacked_score:.3f}"
        probability = platt.predict_proba([example.clean_score])[0]
        assert card.clean.probability == f"{100 * probability:.0f}%"
        assert card.anomalous == (example.label == 1)


def test_verdict_follows_threshold_and_flag(evaluation, examples) -> None:
    platt = Platt.from_dict(evaluation.calibration.calibrator)
    for probability, word in ((0.95, "reject"), (0.05, "accept"), (0.49, "defer"), (0.51, "defer")):
        one = replace(examples[0], clean_score=platt.score_at(probability))
        assert cards([one], evaluation)[0].clean.verdict == word
    without = evaluation.model_copy(deep=True)
    without.calibration.entropy_threshold = None
    one = replace(examples[0], clean_score=platt.score_at(0.51))
    assert cards([one], without)[0].clean.verdict == "reject"


def test_maps_share_one_scale(evaluation, examples) -> None:
    example = examples[0]
    card = cards([example], evaluation)[0]
    both = np.stack([example.clean_map, example.attacked_map])
    assert (card.low, card.high) == (f"{both.min():.3f}", f"{both.max():.3f}")
    # The same map on the same image looks the same in both places, and cooler under a hotter one.
    flat = np.full((64, 96, 3), 0.5, np.float32)
    base = np.full((64, 96), 0.5, np.float32)
    base[:32] = 0.0
    still = replace(example, image=flat, attacked=flat, mask=None, clean_map=base)
    same = cards([replace(still, attacked_map=base)], evaluation)[0].tiles
    np.testing.assert_array_equal(_pixels(same[1]), _pixels(same[3]))
    hotter = cards([replace(still, attacked_map=2 * base)], evaluation)[0].tiles
    assert _pixels(hotter[1]).mean() < _pixels(same[1]).mean() - 0.05


def test_difference_is_amplified_around_grey(evaluation, examples) -> None:
    image = np.full((48, 48, 3), 0.5, np.float32)
    attacked = image.copy()
    attacked[:24] += 4 / 255
    attacked[24:] -= 2 / 255
    one = replace(
        examples[0], image=image, attacked=attacked, mask=None,
        clean_map=image[..., 0], attacked_map=image[..., 0],
    )  # fmt: skip
    tile = cards([one], evaluation)[0].tiles[-1]
    assert tile.caption == "difference \N{MULTIPLICATION SIGN}16"
    shown = _pixels(tile)
    assert shown[:20].mean() == pytest.approx(0.5 + 16 * 4 / 255, abs=0.02)
    assert shown[28:].mean() == pytest.approx(0.5 - 16 * 2 / 255, abs=0.02)


def test_shrinking_keeps_the_size_of_the_difference(evaluation, examples) -> None:
    rng = np.random.default_rng(0)
    image = np.full((1024, 768, 3), 0.5, np.float32)
    attacked = (
        image + rng.choice([-8 / 255, 8 / 255], size=image.shape[:2]).astype(np.float32)[..., None]
    )
    one = replace(
        examples[0], image=image, attacked=attacked, mask=np.zeros(image.shape[:2], bool),
        clean_map=image[..., 0], attacked_map=image[..., 0],
    )  # fmt: skip
    shown = _pixels(cards([one], evaluation)[0].tiles[-1])
    assert shown.shape == (TILE, 192, 3)
    assert np.abs(shown - 0.5).mean() > 0.4  # averaging 4 x 4 pixels would leave 0.1


def test_outline_surrounds_the_mask_and_covers_none_of_it(evaluation, examples) -> None:
    grey = np.full((64, 64, 3), 0.5, np.float32)
    flat = np.zeros((64, 64), np.float32)
    mask = np.zeros((64, 64), np.bool_)
    mask[20:44, 20:44] = True
    base = replace(
        examples[0], image=grey, attacked=grey, clean_map=flat, attacked_map=flat, mask=None
    )
    plain = _pixels(cards([base], evaluation)[0].tiles[1])
    tiles = cards([replace(base, mask=mask)], evaluation)[0].tiles
    drawn = np.abs(_pixels(tiles[1]) - plain).max(axis=-1) > 0.2
    assert drawn[[18, 32], [32, 18]].all()
    assert not drawn[24:40, 24:40].any()
    assert not drawn[:12].any()
    np.testing.assert_allclose(_pixels(tiles[0]), 0.5, atol=0.02)  # the image itself stays as it is
    assert ["outlined" in tile.alt for tile in tiles] == [False, True, False, True, False]


@pytest.mark.parametrize(("eps", "factor"), [(8 / 255, 16), (2 / 255, 64), (0.3, 2), (1.0, 1)])
def test_amplification(eps: float, factor: int) -> None:
    assert amplification(eps) == factor


def test_without_calibrator_no_probability(evaluation_of, examples_of) -> None:
    evaluation = evaluation_of(calibrated=False)
    card = cards(examples_of(evaluation), evaluation)[0]
    assert card.clean.probability is None
    assert card.clean.verdict == ""
