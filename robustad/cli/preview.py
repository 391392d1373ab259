"""`robustad preview`: what pseudo-anomalies look like on a data set."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from robustad.cli import common
from robustad.errors import InputError

SEED_STRIDE = 1_000_003


class ForegroundMethod(StrEnum):
    """How the foreground is found."""

    AUTO = "auto"
    WHOLE = "whole"
    GRADCAM = "gradcam"
    PCA = "pca"
    FILES = "files"


def preview(
    dataset: common.DatasetName = "surfaces",
    data: common.DataRoot = None,
    category: common.Category = None,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("preview.png"),
    count: Annotated[int, typer.Option(min=1, help="Training images to show.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the pseudo-anomalies.")] = 0,
    preset: Annotated[
        str,
        typer.Option(
            help="Whose pseudo-anomalies: robust, paper, official, fast, or a YAML file of that "
            "form, such as the config.yaml of a run."
        ),
    ] = "robust",
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override its fields, e.g. --set pseudo.size=[20,60]."),
    ] = None,
    foreground: Annotated[
        ForegroundMethod | None,
        typer.Option(
            help="Where anomalies may lie; auto: whole for textures, else gradcam. Default: as "
            "the preset says."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Checkpoint of the foreground's network; default: download it once."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="timm name of the foreground's network.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder with foreground masks, for --foreground files.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder to keep foregrounds in; default: beside the data.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=16, help="Edge of the images in pixels; default: the network's."),
    ] = None,
    device: common.Device = "auto",
    quiet: common.Quiet = False,
) -> None:
    """Write a picture of normal images, pseudo-anomalies made from them, and their masks.

    They are drawn as `robustad train` with the same preset and fields draws them.
    """
    from dataclasses import replace

    import numpy as np
    import torch
    from PIL import Image

    from robustad._files import written_aside
    from robustad.foreground import estimate
    from robustad.geometry import Geometry
    from robustad.progress import counter
    from robustad.pseudo import PseudoAnomalies, published
    from robustad.pseudo.preview import preview_grid
    from robustad.training import preset as read_preset
    from robustad.training.augment import augmented
    from robustad.training.presets import changed

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise InputError(f"--out: expected a .png, .jpg or .webp file, got {out}")
    run = read_preset(preset, override or ())
    method = run.foreground.method if foreground is None else foreground.value
    if masks is not None and method != "files":
        raise InputError(f"--masks: only --foreground files takes them, got {method}")
    options = {"weights": weights, "backbone": backbone, "folder": masks}
    given: dict[str, str | None] = {
        f"foreground.{name}": str(value) for name, value in options.items() if value
    }
    if method != "files":  # a folder that the preset names is of no use then
        given |= {"foreground.folder": None}
    run = changed(run, {"foreground.method": method, **given}, source="preview")
    size = run.network.image_size if image_size is None else image_size
    chosen = common.load_data(dataset, data, category)
    chosen = replace(chosen, train=chosen.train[:count], test=())
    where = common.parse_device(device)
    generator = PseudoAnomalies(run.pseudo, size, bounds=published(chosen.name, chosen.category))
    with counter("foreground", enabled=not quiet) as moved:
        area = estimate(chosen, run.foreground, size, cache=cache, device=where, progress=moved)
    geometry = Geometry(size=size, multiple=1, square=True)
    pixels = np.stack([geometry.apply(sample.read()) for sample in chosen.train])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(where)
    names = [sample.name for sample in chosen.train]
    # Another count must not change the pictures that both show.
    seeds = [seed * SEED_STRIDE + index for index in range(len(names))]
    images, area = augmented(images, area.to(where), run.augmentation, seeds=seeds)
    made = generator(images, area, seeds, names)
    with written_aside(out) as aside:
        Image.fromarray(preview_grid(images, made, area)).save(aside)
    common.say.print(f"wrote {out}")
