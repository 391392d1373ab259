"""`robustad screen`: which images of a batch are anomalous, at a stated false discovery rate."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from robustad.cli import common
from robustad.errors import InputError


def screen(
    model: Annotated[Path, typer.Argument(help="A .safetensors detector or an exported .onnx.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    fdr: Annotated[
        float, typer.Option(help="Expected share of normal images among those chosen.")
    ] = 0.1,
    storey: Annotated[
        bool, typer.Option("--storey", help="Estimate the batch's share of normal images.")
    ] = False,
    any_dependence: Annotated[
        bool | None,
        typer.Option(
            help="Assume nothing of how p-values depend on each other; by default so unless they "
            "come from held-out images."
        ),
    ] = None,
    shots: Annotated[
        list[Path] | None,
        typer.Option(
            help="Jackknife+ p-values from the images a .safetensors detector was fitted on."
        ),
    ] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="CV+ with this many folds.")] = None,
    batch_size: common.BatchSize = 8,
    device: common.Device = "auto",
    json: common.Json = False,
) -> None:
    """Choose the anomalous images of a batch, few of them wrongly (Benjamini-Hochberg)."""
    from robustad.conformal import adjusted_p_values, storey_null_share
    from robustad.images import image_files

    def files(paths: list[Path]) -> list[Path]:
        return [f for path in paths for f in (image_files(path) if path.is_dir() else [path])]

    chosen = files(images)
    if folds is not None and not shots:
        raise InputError("--folds: goes with --shots, got none")
    p_values, held_out = _p_values(
        model, chosen, files(shots or []), folds, batch_size, common.parse_device(device)
    )
    cautious = (not held_out) if any_dependence is None else any_dependence
    share = storey_null_share(p_values) if storey else 1.0
    adjusted = adjusted_p_values(
        p_values, null_share=share, dependence="any" if cautious else "positive"
    )
    if not 0.0 < fdr < 1.0:
        raise InputError(f"--fdr: expected a number in (0, 1), got {fdr}")
    records = [
        {"name": str(f), "p_value": float(p), "adjusted": float(a), "chosen": bool(a <= fdr)}
        for f, p, a in zip(chosen, p_values, adjusted, strict=True)
    ]
    if json:
        common.print_json(records)
    else:
        Console().print(_table(records))
    count = sum(bool(record["chosen"]) for record in records)
    common.say.print(
        f"{count} of {len(records)} images chosen; of such choices {100 * fdr:g}% are wrong at "
        "most, on average over batches and held-out sets, without drift or attack"
    )


def _p_values(
    model: Path,
    images: list[Path],
    shots: list[Path],
    folds: int | None,
    batch_size: int,
    device: str,
) -> tuple[Any, bool]:
    """The p-values, and whether they come from held-out images."""
    if model.suffix == ".onnx":
        if shots:
            raise InputError("--shots: needs a .safetensors detector, got an ONNX file")
        from robustad import runtime

        exported = runtime.load(model)
        found = exported.predict(images, batch_size=batch_size).p_value
        conformal = exported.conformal
    else:
        from robustad.conformal import JackknifePlus
        from robustad.detectors import load

        loaded = load(model).to(device)
        if shots:
            return JackknifePlus(loaded, shots, folds=folds).p_values(images), False
        found = loaded.predict(images, batch_size=batch_size).p_value
        conformal = loaded.conformal
    if conformal is None:
        raise InputError(
            f"{model}: has no held-out scores for p-values: see `robustad conformal --help`"
        )
    return found, conformal.method == "split"


def _table(records: list[dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("image", overflow="fold")
    for column in ("p-value", "adjusted"):
        table.add_column(column, justify="right")
    table.add_column("chosen")
    for record in sorted(records, key=lambda one: float(one["p_value"])):
        table.add_row(
            record["name"],
            f"{record['p_value']:.4f}",
            f"{record['adjusted']:.4f}",
            "anomalous" if record["chosen"] else "",
        )
    return table
