"""`robustad attack`: adversarial images of a folder, saved without loss."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from robustad.cli import common
from robustad.errors import InputError

# What an attack may notice, in words.
NOTED = {
    "zero_gradient": "no gradient reached some image: its scores are rounded, saturated, detached",
    "nonfinite_gradient": "some gradient of low precision was not finite, and counted as zero",
    "query_budget": "some image ran out of queries; --queries gives more",
    "no_start": "for some image no image across the threshold was found to start from; --pool "
    "gives some, or the threshold is out of reach",
    "no_threshold": "there is no threshold, so AutoAttack went without FAB",
}


def _list(value: bool) -> None:
    """Print every named attack with what it does, sees and needs."""
    if not value:
        return
    from robustad.attacks import PRESETS

    table = Table()
    for column in ("attack", "what it does", "sees", "needs"):
        table.add_column(column, no_wrap=column == "attack")
    for name, one in PRESETS.items():
        table.add_row(name, one.summary, one.access, ", ".join(sorted(one.needs)))
    Console().print(table)
    Console().print(f"Names may also be built: {common.ATTACK_NAMES.partition('; ')[2]}")
    raise typer.Exit


def attack(
    model: Annotated[
        str,
        typer.Argument(help="A saved .safetensors detector, an exported .onnx, or module:callable"),
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the adversarial images.")],
    attack: Annotated[
        str, typer.Option("--attack", help=f"Name of the attack: {common.ATTACK_NAMES}")
    ] = "pgd10",
    eps: common.Eps = "8/255",
    anomalous: Annotated[
        bool,
        typer.Option(
            "--anomalous", help="Images without labels are anomalous, to be made to look normal."
        ),
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(help="Image score from which the verdict is anomalous.")
    ] = None,
    restarts: Annotated[int, typer.Option(min=1, help="Of attacks that take restarts.")] = 1,
    queries: Annotated[
        int | None,
        typer.Option(
            min=1, help="Budget an image of black-box attacks; default 10000, square 5000."
        ),
    ] = None,
    pool: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images of the other class, which hopskipjump starts from; default "
            "those of --data, where it has both."
        ),
    ] = None,
    surrogate: common.Surrogates = None,
    image_size: Annotated[
        int, typer.Option(min=8, help="For module:callable: edge of the squares it takes.")
    ] = 224,
    seed: common.Seed = 0,
    batch_size: common.BatchSize = 8,
    device: common.Device = "auto",
    list_attacks: Annotated[
        bool,
        typer.Option("--list", callback=_list, is_eager=True, help="Explain the attacks and stop."),
    ] = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Attack the images of a folder and save them: exact pixels, PNGs, and a manifest.

    Labels come from the folder's layout (good beside defect folders); a plain folder is normal.
    Saved are the worst images the attack saw, checked against eps and scored once more.
    """
    from robustad.detectors import load
    from robustad.evaluation.attacked import attack_folder
    from robustad.evaluation.target import load_target

    if out.exists() and any(out.iterdir()):
        raise InputError(f"--out: expected a new or empty folder, {out} holds files")
    place = common.parse_device(device)
    saved = attack_folder(
        load_target(model, image_size=image_size).to(place),
        data,
        out,
        attack=attack,
        eps=common.parse_eps(eps),
        anomalous=anomalous,
        threshold=threshold,
        restarts=restarts,
        queries=queries,
        pool=pool,
        surrogates=[load(one).to(place) for one in surrogate or ()],
        seed=seed,
        batch_size=batch_size,
        progress=not quiet,
    )
    if json:
        common.print_json(saved)
        return
    for one in saved:
        same = "" if one["distance"] else "  (unchanged)"
        print(f"{one['name']}  {one['clean_score']:.4g} -> {one['score']:.4g}{same}")
    common.say.print(f"wrote {len(saved)} images to {out}")
    for flag in sorted({flag for one in saved for flag in one["flags"]}):
        common.say.print(f"note: {flag}: {NOTED[flag]}")
