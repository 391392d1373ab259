"""`robustad predict`: verdicts for images, from a detector file or an ONNX file."""

import csv
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from robustad.cli import EXIT_REJECTED, common
from robustad.errors import InputError


class MapKind(StrEnum):
    """What an overlay shows."""

    SCORE = "score"
    PROBABILITY = "probability"


class FailOn(StrEnum):
    """Which verdicts make the command exit with code 4."""

    NEVER = "never"
    REJECT = "reject"
    DEFER = "defer"


def predict(
    model: Annotated[Path, typer.Argument(help="A .safetensors detector or an exported .onnx.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    maps: Annotated[
        Path | None, typer.Option(help="Write a heat-map overlay of each image to this folder.")
    ] = None,
    map_kind: Annotated[
        MapKind,
        typer.Option(
            help="Show map values, each image from its lowest to its highest, or the probability "
            "of each pixel from 0 to 1 (after `robustad calibrate --pixels`)."
        ),
    ] = MapKind.SCORE,
    masks: Annotated[
        Path | None,
        typer.Option(help="Write each image's defect mask there; needs a pixel threshold."),
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a CSV table.")] = None,
    fail_on: Annotated[
        FailOn,
        typer.Option(help="Exit with code 4 if an image is rejected, or also if deferred."),
    ] = FailOn.NEVER,
    batch_size: common.BatchSize = 8,
    device: common.Device = "auto",
    runtime: common.Runtime = common.Inference.AUTO,
    json: common.Json = False,
) -> None:
    """Score images and give a verdict on each."""
    from robustad._files import written_aside
    from robustad.images import image_files
    from robustad.prediction import Prediction

    files = [file for path in images for file in (image_files(path) if path.is_dir() else [path])]
    if not files:
        raise InputError(f"{images[0]}: expected a folder with image files, found none")
    loaded: Any
    if model.suffix == ".onnx":
        loaded = common.load_onnx(model, engine=runtime)
    else:
        from robustad.detectors import load

        loaded = load(model).to(common.parse_device(device))
    records: list[dict[str, Any]] = []
    for start in range(0, len(files), batch_size):
        part = files[start : start + batch_size]
        prediction: Prediction = loaded.predict(part, batch_size=batch_size)
        records += prediction.to_records()
        if maps is not None:
            _write_overlays(part, files, prediction, maps, map_kind)
        if masks is not None:
            _write_masks(part, files, prediction, masks)
    if csv_file is not None:
        with (
            written_aside(csv_file) as aside,
            aside.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        common.say.print(f"wrote {csv_file}")
    if maps is not None:
        common.say.print(f"wrote {len(files)} overlays to {maps}")
    if masks is not None:
        common.say.print(f"wrote {len(files)} masks to {masks}")
    if json:
        common.print_json(records)
    else:
        Console().print(_table(records))
        if {record["verdict"] for record in records} == {"uncalibrated"}:
            common.say.print(
                "the detector is not calibrated: see `robustad calibrate --help`, or with normal "
                "images alone `robustad conformal --help`"
            )
    failing = {FailOn.NEVER: (), FailOn.REJECT: ("reject",), FailOn.DEFER: ("reject", "defer")}
    if any(record["verdict"] in failing[fail_on] for record in records):
        sys.exit(EXIT_REJECTED)


def _table(records: list[dict[str, Any]]) -> Table:
    table = Table()
    interval = "probability_low" in records[0]
    probability = "probability, interval" if interval else "probability"
    for column, justify in (("image", "left"), ("score", "right"), (probability, "right")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    shows = ["score", "probability", "entropy"]
    if any(record["p_value"] is not None for record in records):
        shows.append("p_value")
    for key in shows[2:]:
        table.add_column(key.replace("_", "-"), justify="right")
    table.add_column("verdict")
    for record in records:
        cells = [record[key] for key in shows]
        shown = ["-" if value is None else f"{value:.3f}" for value in cells]
        if interval and record["probability"] is not None:
            low, high = record["probability_low"], record["probability_high"]
            shown[1] += f" \\[{low:.3f}, {high:.3f}]"
        table.add_row(record["name"], *shown, record["verdict"])
    return table


def _write_overlays(
    part: list[Path], files: list[Path], prediction: Any, folder: Path, kind: MapKind
) -> None:
    from PIL import Image

    from robustad._files import written_aside
    from robustad.images import read_image
    from robustad.overlay import overlay

    shown, ends = prediction.anomaly_map, {}
    if kind is MapKind.PROBABILITY:
        shown, ends = prediction.probability_map, {"low": 0.0, "high": 1.0}
        if shown is None:
            raise InputError(
                "--map-kind probability: the detector's pixels are not calibrated; see "
                "`robustad calibrate --pixels`"
            )
    for file, anomaly_map in zip(part, shown, strict=True):
        with written_aside(folder / _png_name(file, files)) as aside:
            picture = overlay(read_image(file), anomaly_map, **ends)
            Image.fromarray(picture).save(aside, format="PNG")


def _write_masks(part: list[Path], files: list[Path], prediction: Any, folder: Path) -> None:
    from PIL import Image

    from robustad._files import written_aside

    for file, mask in zip(part, prediction.masks(), strict=True):
        with written_aside(folder / _png_name(file, files)) as aside:
            Image.fromarray(mask).save(aside, format="PNG")


def _png_name(file: Path, files: list[Path]) -> str:
    """Name of a picture; images of one name from several folders must not overwrite each other."""
    alone = sum(other.stem == file.stem for other in files) == 1
    return f"{file.stem if alone else '_'.join(file.with_suffix('').parts[-2:])}.png"
