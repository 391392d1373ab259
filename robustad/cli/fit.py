"""`robustad fit`: normal images in, a detector file out."""

from pathlib import Path
from typing import Annotated

import typer

from robustad.cli import common
from robustad.errors import InputError


def fit(
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="Normal images, or folders of them. Or use --dataset / --data."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Detector file to write.")] = Path(
        "detector.safetensors"
    ),
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Take the training images of a data set.")
    ] = None,
    data: common.DataRoot = None,
    category: common.Category = None,
    shots: Annotated[
        str, typer.Option(help="Number of training images of the data set, or full.")
    ] = "4",
    seed: common.Seed = 0,
    backbone: Annotated[
        str,
        typer.Option(
            help="filters (embedded, needs no weights) or a timm model, e.g. "
            "vit_small_patch14_dinov2.lvd142m (AnomalyDINO's) or resnet18."
        ),
    ] = "vit_small_patch14_dinov2.lvd142m",
    weights: Annotated[
        str | None,
        typer.Option(help="Checkpoint file; default: downloaded by name. `random`: none."),
    ] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Smaller edge in pixels.")] = 448,
    square: Annotated[bool, typer.Option(help="Stretch images to a square.")] = False,
    preprocessing: Annotated[
        str | None,
        typer.Option(help="Published rotations and masks: agnostic, informed, masking_only."),
    ] = None,
    rotate: Annotated[
        bool | None, typer.Option(help="Add 7 rotated copies of each image to the bank.")
    ] = None,
    mask: Annotated[
        bool | None, typer.Option(help="Score only the object in the foreground.")
    ] = None,
    neighbours: Annotated[int, typer.Option(min=1, help="Neighbours a distance is over.")] = 1,
    coreset: Annotated[
        float | None, typer.Option(help="Keep this share of the bank (below 1), or this many.")
    ] = None,
    device: common.Device = "auto",
    quiet: common.Quiet = False,
) -> None:
    """Fit a few-shot detector (AnomalyDINO) on normal images."""
    from robustad.data import shots as take_shots
    from robustad.detectors import AnomalyDINO
    from robustad.detectors.anomaly_dino_presets import preprocessing_for

    if bool(images) == bool(dataset):
        raise InputError("expected either image paths or --dataset, got both or neither")
    if dataset is not None:
        whole = common.load_data(dataset, data, category)
        chosen = take_shots(whole, common.parse_shots(shots), seed=seed)
        category = chosen.category
        sources = [sample.image for sample in chosen.train]
    else:
        sources = list(images or ())
    turns, masked = False, False
    if preprocessing is not None:
        if dataset is None:
            raise InputError("--preprocessing: is published for data sets; use --rotate and --mask")
        turns, masked = preprocessing_for(dataset, category or "", preprocessing)  # type: ignore[arg-type]
    turns = turns if rotate is None else rotate
    detector = AnomalyDINO(
        backbone,
        weights,
        image_size=image_size,
        square=square,
        rotations=8 if turns else 1,
        mask=masked if mask is None else mask,
        k=neighbours,
        coreset=int(coreset) if coreset is not None and coreset > 1 else coreset,
    )
    detector.to(common.parse_device(device)).fit(sources, progress=not quiet)
    detector.save(out)
    common.say.print(f"wrote {out}: {detector.bank.shape[0]} patches, backbone {backbone}")
    common.say.print(f"next: robustad predict {out} IMAGES, or robustad calibrate {out} --help")
