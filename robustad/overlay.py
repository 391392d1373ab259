"""A heat map over an image, for people. Needs numpy alone."""

import numpy as np
import numpy.typing as npt

# Anchors of a perceptually ordered ramp, dark violet to pale yellow (RGB).
_RAMP = np.array(
    [
        [0.05, 0.03, 0.20],
        [0.34, 0.06, 0.43],
        [0.63, 0.15, 0.38],
        [0.88, 0.32, 0.21],
        [0.98, 0.60, 0.12],
        [0.98, 0.90, 0.55],
    ]
)


def colours(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Colour values in [0, 1] of any shape; clipped. Returns (..., 3), float32 in [0, 1]."""
    position = np.clip(values, 0.0, 1.0) * (len(_RAMP) - 1)
    anchors = np.arange(len(_RAMP))
    channels = [np.interp(position, anchors, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def overlay(
    image: npt.NDArray[np.float32],
    anomaly_map: npt.NDArray[np.float32],
    *,
    low: float | None = None,
    high: float | None = None,
    strength: float = 0.6,
) -> npt.NDArray[np.uint8]:
    """Blend a heat map into an image, the more the hotter.

    Parameters
    ----------
    image : array, (H, W, 3), float32 in [0, 1]
        RGB.
    anomaly_map : array, (H, W), float32
        Map of the same size.
    low, high : float, optional
        Map values shown as the ramp's ends; by default the map's own minimum and maximum, so that
        colours then compare within one image only.
    strength : float in [0, 1], default 0.6
        Opacity at the hottest pixel.

    Returns
    -------
    array, (H, W, 3), uint8
        Ready to be saved.
    """
    low = float(anomaly_map.min()) if low is None else low
    high = float(anomaly_map.max()) if high is None else high
    heat = np.clip((anomaly_map - low) / max(high - low, 1e-12), 0.0, 1.0)
    opacity = (strength * np.sqrt(heat))[..., None]
    blended = image * (1.0 - opacity) + colours(heat) * opacity
    return np.asarray(np.rint(blended * 255.0), np.uint8)
