"""A test image that any language can compute, to check an engine against the exporter's outputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.errors import StateError, VerificationError
from robustad.runtime._metadata import BYTES, input_form

FloatArray = npt.NDArray[np.float32]
RECIPE = "quadratic-256"


def golden_image(height: int, width: int) -> FloatArray:
    """Compute the golden input of an exported file from its size alone.

    Parameters
    ----------
    height, width : int
        Size in pixels.

    Returns
    -------
    array, (1, 3, height, width), float32 in [0, 1]
        `((i*i + 2*j*j + 3*i*j + 50*c) mod 256) / 255` at row i, column j and channel c: integers
        up to the division, so that every language and platform gets the same values.

    Examples
    --------
    >>> (golden_image(2, 3)[0, 1] * 255).round().astype(int).tolist()
    [[50, 52, 58], [51, 56, 65]]
    """
    row = np.arange(height, dtype=np.int64)[:, None]
    column = np.arange(width, dtype=np.int64)
    channel = np.arange(3, dtype=np.int64)[:, None, None]
    values = (row * row + 2 * column * column + 3 * row * column + 50 * channel) % 256
    image: FloatArray = (values / 255).astype(np.float32)[None]
    return image


def golden_bytes(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Compute the golden input of a file that takes uint8 images: the same integers.

    Returns
    -------
    array, (1, height, width, 3), uint8
        `(i*i + 2*j*j + 3*i*j + 50*c) mod 256` at row i, column j and channel c.

    Examples
    --------
    >>> golden_bytes(2, 3)[0, :, :, 1].tolist()
    [[50, 52, 58], [51, 56, 65]]
    """
    image = np.rint(golden_image(height, width) * 255).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


def golden_outputs(
    score: FloatArray, patch_scores: FloatArray, anomaly_map: FloatArray
) -> dict[str, float]:
    """Reduce the golden image's outputs to what is stored of them."""
    return {
        "score": float(score[0]),
        "patch_scores_mean": float(patch_scores.mean(dtype=np.float64)),
        "patch_scores_max": float(patch_scores.max()),
        "anomaly_map_mean": float(anomaly_map.mean(dtype=np.float64)),
        "anomaly_map_max": float(anomaly_map.max()),
    }


def read_golden(
    metadata: Mapping[str, Any], name: str
) -> tuple[npt.NDArray[Any], dict[str, float]]:
    """Golden image of a file, in the form of its input, and the outputs stored for it.

    Parameters
    ----------
    metadata : mapping
        The file's metadata.
    name : str
        Of the file, for messages.

    Raises
    ------
    StateError
        If there are none, or of a recipe that this version does not know.
    """
    golden: Any = metadata.get("golden")
    try:
        recipe, size = golden["recipe"], (int(golden["height"]), int(golden["width"]))
        outputs = {key: float(value) for key, value in golden["outputs"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"{name}: no golden outputs in its metadata") from error
    expected = set(golden_outputs(*[np.zeros(1, np.float32)] * 3))
    if recipe != RECIPE or set(outputs) != expected:
        raise StateError(
            f"{name}: golden outputs of the recipe {recipe!r}, this version knows {RECIPE!r}"
        )
    made = golden_bytes if input_form(metadata) == BYTES else golden_image
    return made(*size), outputs


def largest_difference(
    found: Mapping[str, float], expected: Mapping[str, float], tolerance: float, name: str
) -> float:
    """Difference of golden outputs that differ most; above the tolerance a VerificationError."""
    differences = {key: abs(found[key] - expected[key]) for key in found}
    worst = max(differences, key=lambda key: np.nan_to_num(differences[key], nan=np.inf))
    if not differences[worst] <= tolerance:
        raise VerificationError(
            f"{name}: golden output {worst} is {found[worst]:.6g}, expected "
            f"{expected[worst]:.6g} within {tolerance:g}"
        )
    return differences[worst]
