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
            help="filters (embedded, needs no weights), a timm model, e.g. "
            "vit_small_patch14_dinov2.lvd142m (AnomalyDINO's) or resnet18, or robustbench/NAME."
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
    layers: Annotated[
        list[int] | None,
        typer.Option("--layers", help="Of a CNN: feature levels; default those of stride 8, 16."),
    ] = None,
    neighbours: Annotated[int, typer.Option(min=1, help="Neighbours a distance is over.")] = 1,
    reduce: Annotated[
        str, typer.Option(help="mean of the neighbours' distances, or max: the farthest of them.")
    ] = "mean",
    prune: Annotated[float, typer.Option(help="Share of the bank to drop as outliers.")] = 0.0,
    prune_by: Annotated[
        str, typer.Option(help="distance or density: what makes an outlier.")
    ] = "distance",
    coreset: Annotated[
        float | None, typer.Option(help="Keep this share of the bank (below 1), or this many.")
    ] = None,
    banks: Annotated[
        int, typer.Option(min=1, help="Resampled banks to average over; their spread says doubt.")
    ] = 1,
    each_layer: Annotated[
        bool, typer.Option("--each-layer", help="A bank for each of --layers, averaged.")
    ] = False,
    smooth: Annotated[
        float | None,
        typer.Option(
            help="Median smoothing: fit on images with noise of this deviation, and score so."
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Noisy copies an image for --smooth.")] = 100,
    device: common.Device = "auto",
    quiet: common.Quiet = False,
) -> None:
    """Fit a few-shot detector (AnomalyDINO) on normal images."""
    from robustad.backbones import create
    from robustad.certificates import SmoothedDetector
    from robustad.data import shots as take_shots
    from robustad.detectors import AnomalyDINO, BankEnsemble
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
    turned = 8 if turns else 1
    levels = [(one,) for one in layers or ()] if each_layer else [tuple(layers) if layers else None]
    if not levels:
        raise InputError("--each-layer: expected --layers with it, got none")
    views = [
        AnomalyDINO(
            create(backbone, weights, layers=level),
            image_size=image_size,
            square=square,
            rotations=turned,
            mask=masked if mask is None else mask,
            k=neighbours,
            coreset=int(coreset) if coreset is not None and coreset > 1 else coreset,
            reduce=reduce,  # type: ignore[arg-type]
            prune=prune,
            prune_by=prune_by,  # type: ignore[arg-type]
        )
        for level in levels
    ]
    detector: AnomalyDINO | BankEnsemble | SmoothedDetector = views[0]
    if banks > 1 or len(views) > 1:
        detector = BankEnsemble(views, banks=banks, seed=seed)
    if smooth is not None:
        detector = SmoothedDetector(detector, sigma=smooth, draws=draws, seed=seed)
    detector.to(common.parse_device(device))
    detector.fit(sources, progress=not quiet)
    detector.save(out)
    patches = sum(view.bank.shape[0] for view in views)
    common.say.print(f"wrote {out}: {patches} patches, backbone {backbone}")
    common.say.print(f"next: robustad predict {out} IMAGES, or robustad calibrate {out} --help")
