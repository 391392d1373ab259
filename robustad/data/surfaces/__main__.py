"""`python -m robustad.data.surfaces OUT.png`: a contact sheet of normal and defective images."""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from robustad._files import written_aside
from robustad._imports import require
from robustad.data.surfaces import CATEGORIES, DEFECTS, Rendered, render

GAP = 4
OUTLINE = np.array([255, 60, 40], np.uint8)


def contact_sheet(*, size: int = 160, seed: int = 0, index: int = 0) -> npt.NDArray[np.uint8]:
    """Lay out a normal image and every defect of each category, with the masks below.

    Parameters
    ----------
    size : int, default 160
        Edge of each image in the sheet; images are rendered at 256 pixels and reduced.
    seed : int, default 0
        Seed of the data.
    index : int, default 0
        Number of the image shown of each folder.

    Returns
    -------
    array, (H, W, 3), uint8
        Two rows a category: images with the defect's outline in red, and masks.
    """
    image_of = require("PIL.Image", extra="cpu", purpose="reducing images")
    rows = []
    for category in CATEGORIES:
        folders = ["train/good", *(f"test/{defect}" for defect in DEFECTS[category])]
        cells = [render(category, folder, index, seed=seed) for folder in folders]
        for draw in (_photograph, _mask):
            tiles = [
                np.asarray(
                    image_of.fromarray(draw(cell)).resize((size, size), image_of.Resampling.LANCZOS)
                )
                for cell in cells
            ]
            rows.append(np.concatenate([_framed(tile) for tile in tiles], axis=1))
    return np.concatenate(rows, axis=0)


def _photograph(rendered: Rendered) -> npt.NDArray[np.uint8]:
    return rendered.image


def _mask(rendered: Rendered) -> npt.NDArray[np.uint8]:
    """The clean twin, darkened, with the mask in red."""
    out = rendered.clean // 2
    out[rendered.mask] = OUTLINE
    return out


def _framed(tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m robustad.data.surfaces",
        description="Write a contact sheet of the generated data set.",
    )
    parser.add_argument("out", help="image file to write, for example surfaces.png")
    parser.add_argument("--size", type=int, default=160, help="edge of each image in pixels")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pil = require("PIL.Image", extra="cpu", purpose="writing image files")
    with written_aside(arguments.out) as aside:
        pil.fromarray(contact_sheet(size=arguments.size, seed=arguments.seed)).save(aside)
    print(arguments.out)
