"""`python -m robustad.data.surfaces OUT.png`: a contact sheet of normal and defective images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from robustad._files import written_aside
from robustad._imports import require
from robustad.data.surfaces import CATEGORIES, DEFECTS, render

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

GAP, CAPTION = 4, 14  # pixels between the tiles and for the words above them
COLOURS = 256  # a palette keeps the file small; maximum coverage keeps rare hues


def contact_sheet(*, tile: int = 150, seed: int = 0, index: int = 0) -> PILImage:
    """Lay out a normal image and every kind of defect of each category, with the masks below.

    Parameters
    ----------
    tile : int, default 150
        Edge of each image in the sheet; they are rendered at 256 pixels and reduced.
    seed : int, default 0
        Seed of the data.
    index : int, default 0
        Number of the image shown of each folder.

    Returns
    -------
    PIL image
        With a palette of 256 colours. Two rows a category: images, and masks in white.
    """
    pil = require("PIL.Image", extra="cpu", purpose="drawing the contact sheet")
    draw_on = require("PIL.ImageDraw", extra="cpu", purpose="drawing the contact sheet")
    columns = 1 + max(len(defects) for defects in DEFECTS.values())
    block = 2 * (tile + GAP) + CAPTION
    sheet = pil.new("RGB", (columns * (tile + GAP) - GAP, len(CATEGORIES) * block), "white")
    draw = draw_on.Draw(sheet)
    for row, category in enumerate(CATEGORIES):
        top = row * block
        for column, kind in enumerate(("good", *DEFECTS[category])):
            left = column * (tile + GAP)
            folder = "train/good" if kind == "good" else f"test/{kind}"
            rendered = render(category, folder, index, seed=seed)
            caption = f"{category}: good" if kind == "good" else kind.replace("_", " ")
            draw.text((left + 2, top + 1), caption, fill="black")
            mask = np.repeat(rendered.mask[..., None], 3, axis=-1) * np.uint8(255)
            for line, pixels in enumerate((rendered.image, mask)):
                picture = pil.fromarray(pixels).resize((tile, tile), pil.Resampling.BOX)
                sheet.paste(picture, (left, top + CAPTION + line * (tile + GAP)))
    out: PILImage = sheet.quantize(COLOURS, method=pil.Quantize.MAXCOVERAGE)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m robustad.data.surfaces",
        description="Write a contact sheet of the generated data set.",
    )
    parser.add_argument("out", help="image file to write, for example surfaces.png")
    parser.add_argument("--tile", type=int, default=150, help="edge of each image in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=int, default=0, help="number of the images shown")
    arguments = parser.parse_args()
    with written_aside(arguments.out) as aside:
        sheet = contact_sheet(tile=arguments.tile, seed=arguments.seed, index=arguments.index)
        sheet.save(aside, optimize=True)
    print(arguments.out)
