"""Ranges of the transformations' parameters: light, medium and heavy.

Facts from the source code of Nafez et al., PatchGuard (CVPR 2025). Lengths are in pixels at an
image edge of 224.
"""

from typing import Final

from robustad.pseudo.config import Transformation

LIGHT, MEDIUM, HEAVY = 0, 1, 2

Range = tuple[float, float]
# (light, medium, heavy), each (low, high)
RANGES: Final[dict[str, tuple[Range, Range, Range]]] = {
    # A factor is drawn from [1 - a, 1 + a], a hue shift (in turns) from [-a, a], with a from here.
    "brightness": ((0.1, 0.1), (0.4, 0.4), (0.8, 1.0)),
    "contrast": ((0.1, 0.1), (0.4, 0.4), (0.8, 1.0)),
    "saturation": ((0.1, 0.1), (0.4, 0.4), (0.8, 1.0)),
    "hue": ((0.1, 0.1), (0.3, 0.3), (0.5, 0.5)),
    "elastic": ((10.0, 20.0), (20.0, 40.0), (40.0, 100.0)),  # amplitude of the unsmoothed noise
    "swirl": ((0.5, 1.0), (1.0, 1.5), (1.5, 2.0)),  # radians at the centre
    "blur": ((0.2, 0.5), (0.8, 1.5), (2.0, 3.0)),  # standard deviation
    "perlin_scale": ((20.0, 50.0), (10.0, 20.0), (5.0, 10.0)),  # edge of the coarsest cell
    "erase_ratio": ((0.01, 0.05), (0.05, 0.1), (0.1, 0.2)),  # of the patch's area, each rectangle
}
# Whole numbers, both ends included.
COUNTS: Final[dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]]] = {
    "lines": ((1, 3), (5, 10), (10, 20)),
    "perlin_threshold": ((200, 255), (150, 200), (128, 150)),  # of 0..255
    "erase_rectangles": ((1, 2), (2, 3), (3, 5)),
    "jpeg": ((30, 50), (20, 30), (1, 20)),  # quality
}
MOST_LINES = COUNTS["lines"][HEAVY][1]
MOST_RECTANGLES = COUNTS["erase_rectangles"][HEAVY][1]
# At most this many of a level's transformations are drawn, beside colour.
MOST_DRAWN: Final = (1, 2, 4)
KNOWN: Final[tuple[tuple[Transformation, ...], ...]] = (
    ("blur", "elastic", "swirl"),
    ("blur", "swirl", "jpeg", "elastic"),
    ("elastic", "lines", "jpeg", "perlin", "swirl", "erasing", "blur"),
)
ELASTIC_SIGMA = 3.0  # smoothing of the elastic noise, in pixels at 224
ERASE_ASPECT: Final = (0.3, 3.3)  # width over height
