"""Examples as rows of small pictures, embedded in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from robustad._imports import require
from robustad.calibration import calibrator_from_dict
from robustad.evaluation import Evaluation, Example
from robustad.report.wording import number
from robustad.verdict import Policy, Verdict

FloatArray = npt.NDArray[np.float32]
TILE = 256  # longer side of a picture, in pixels
QUALITY = 80
OUTLINE = np.array([0.0, 0.9, 1.0], np.float32)  # cyan: no heat map colour comes near it
COLOUR_MAP = "inferno"
WORDS = {
    Verdict.ACCEPT: "accept",
    Verdict.REJECT: "reject",
    Verdict.DEFER: "defer",
    Verdict.UNCALIBRATED: "",
}


@dataclass(frozen=True)
class Tile:
    """One embedded picture: `source` is a data URI, `alt` and `caption` say what it shows."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True)
class State:
    """What the detector says of one version of an image, ready to print."""

    score: str
    probability: str | None
    verdict: str


@dataclass(frozen=True)
class Card:
    """One example ready to print.

    Attributes
    ----------
    name, defect, attack : str
        As in the example.
    anomalous : bool
        Its label.
    rank : int
        Place by clean score among the evaluation images, 1 for the highest.
    clean, attacked : State
        Before and after.
    low, high : str
        Ends of the colour scale of both maps.
    tiles : list of Tile
        Image, map, attacked image, its map, difference.
    """

    name: str
    defect: str
    attack: str
    anomalous: bool
    rank: int
    clean: State
    attacked: State
    low: str
    high: str
    tiles: list[Tile]


def cards(examples: Sequence[Example], evaluation: Evaluation) -> list[Card]:
    """Make the gallery.

    Parameters
    ----------
    examples : sequence of Example
        Images of one evaluation.
    evaluation : Evaluation
        Gives the rank, the calibrator and the radius.

    Returns
    -------
    list of Card
        By falling clean score.
    """
    ordered = sorted(examples, key=lambda one: -one.clean_score)
    return [_card(example, evaluation) for example in ordered]


def amplification(eps: float) -> int:
    """Whole factor at which a change of `eps` spans about half of the grey range.

    Examples
    --------
    >>> amplification(8 / 255), amplification(1.0)
    (16, 1)
    """
    return max(1, round(0.5 / eps))


def colour_stops(n: int = 9) -> list[str]:
    """CSS colours of the heat map from low to high, for a legend."""
    colours = require("matplotlib", extra="report", purpose="HTML reports").colormaps[COLOUR_MAP]
    return [
        "#" + "".join(f"{round(255 * part):02x}" for part in colours(position)[:3])
        for position in np.linspace(0.0, 1.0, n)
    ]


def _card(example: Example, evaluation: Evaluation) -> Card:
    low = float(min(example.clean_map.min(), example.attacked_map.min()))
    high = float(max(example.clean_map.max(), example.attacked_map.max()))
    factor = amplification(evaluation.eps)
    # Neighbours are not averaged here: that would hide the perturbation.
    difference = _small(example.attacked, "NEAREST") - _small(example.image, "NEAREST")
    mask = _small_mask(example.mask)
    image, attacked = _small(example.image), _small(example.attacked)
    outlined = "" if mask is None or not mask.any() else ", the true defect outlined"
    pictures = (
        (image, "image", f"{example.name}, clean"),
        (
            _outlined(_overlay(image, example.clean_map, low, high), mask),
            "heat map",
            f"heat map of {example.name}, clean{outlined}",
        ),
        (attacked, "image attacked", f"{example.name} under {example.attack}"),
        (
            _outlined(_overlay(attacked, example.attacked_map, low, high), mask),
            "heat map attacked",
            f"heat map of {example.name} under {example.attack}{outlined}",
        ),
        (
            0.5 + factor * difference,
            f"difference \N{MULTIPLICATION SIGN}{factor}",
            f"difference of the two images, times {factor}, around grey",
        ),
    )
    scores = evaluation.scores()
    return Card(
        name=example.name,
        defect=example.defect,
        attack=example.attack,
        anomalous=example.label == 1,
        rank=1 + int((scores > example.clean_score + 1e-6 * abs(example.clean_score)).sum()),
        clean=_state(example.clean_score, evaluation),
        attacked=_state(example.attacked_score, evaluation),
        low=number(low),
        high=number(high),
        tiles=[Tile(_data_uri(pixels), alt, caption) for pixels, caption, alt in pictures],
    )


def _state(score: float, evaluation: Evaluation) -> State:
    report = evaluation.calibration
    if report is None:
        return State(number(score), None, "")
    calibrator = calibrator_from_dict(report.calibrator)
    probability = calibrator.predict_proba([score])
    threshold = report.threshold
    if threshold is None and report.score_threshold is not None:
        # Older results keep the score at which the verdict changes alone. A score far outside the
        # others rounds to probability 0 or 1, which no policy takes.
        [threshold] = calibrator.predict_proba([report.score_threshold]).clip(1e-12, 1 - 1e-12)
    policy = Policy(
        threshold=0.5 if threshold is None else float(threshold),
        entropy_threshold=report.entropy_threshold,
    )
    [verdict] = policy.decide(probability)
    return State(number(score), f"{100 * probability[0]:.0f}%", WORDS[verdict])


def _overlay(image: FloatArray, anomaly_map: FloatArray, low: float, high: float) -> FloatArray:
    """Grey image under the heat map, which covers more the hotter it is."""
    colours = require("matplotlib", extra="report", purpose="HTML reports").colormaps[COLOUR_MAP]
    heat = _small(anomaly_map[..., None].repeat(3, axis=-1))[..., 0]
    heat = ((heat - low) / (high - low) if high > low else np.zeros_like(heat)).clip(0.0, 1.0)
    grey = image.mean(axis=-1, keepdims=True)
    cover = 0.25 + 0.6 * heat[..., None]
    mixed: FloatArray = (1.0 - cover) * grey + cover * colours(heat)[..., :3].astype(np.float32)
    return mixed


def _outlined(pixels: FloatArray, mask: npt.NDArray[np.bool_] | None) -> FloatArray:
    """Draw the line just outside the mask, so that it covers nothing of it."""
    if mask is None or not mask.any():
        return pixels
    line = _grown(_grown(mask))
    halo = _grown(line)
    pixels = pixels.copy()
    pixels[halo & ~line] *= 0.35
    pixels[line & ~mask] = OUTLINE
    return pixels


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    grown = mask.copy()
    for row, column in ((0, 1), (2, 1), (1, 0), (1, 2)):
        grown |= padded[row : row + mask.shape[0], column : column + mask.shape[1]]
    return grown


def _small(pixels: FloatArray, resample: str = "BOX") -> FloatArray:
    """Shrink so that the longer side is `TILE` at most; float32 in and out."""
    height, width = pixels.shape[:2]
    scale = TILE / max(height, width)
    if scale >= 1.0:
        return pixels.astype(np.float32)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    channels = [
        np.asarray(
            Image.fromarray(channel.astype(np.float32)).resize(size, Image.Resampling[resample])
        )
        for channel in np.moveaxis(pixels, -1, 0)
    ]
    return np.stack(channels, axis=-1)


def _small_mask(mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
    if mask is None:
        return None
    small: npt.NDArray[np.bool_] = _small(mask[..., None].astype(np.float32))[..., 0] > 0.0
    return small


def _data_uri(pixels: FloatArray) -> str:
    image = Image.fromarray((255.0 * pixels.clip(0.0, 1.0)).round().astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
