"""`robustad certify`: what no attack can make of a smoothed detector."""

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from robustad.cli import common
from robustad.errors import InputError


def certify(
    model: Annotated[
        str,
        typer.Argument(help="A saved .safetensors detector, an exported .onnx, or module:callable"),
    ],
    dataset: common.DatasetName = "folder",
    data: common.DataRoot = None,
    category: common.Category = None,
    sigma: Annotated[
        float | None,
        typer.Option(help="Noise in pixel range; default 0.25, or that of a smoothed detector."),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Noisy copies an image.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Chance that a bound is wrong.")] = 0.001,
    radii: Annotated[
        list[str], typer.Option("--radii", help="l2 radii of the whole image, e.g. 0.25 or 64/255.")
    ] = ["16/255", "32/255", "64/255", "128/255"],  # noqa: B006
    threshold: Annotated[
        list[float] | None,
        typer.Option(
            "--threshold", help="Scores for error rates; default the detector's, else chosen here."
        ),
    ] = None,
    two_sided: Annotated[
        bool, typer.Option("--two-sided", help="Both bounds of an image at once at --alpha.")
    ] = False,
    simultaneous: Annotated[
        bool, typer.Option("--simultaneous", help="All images of a radius at once at --alpha.")
    ] = False,
    test_draws: Annotated[
        int | None,
        typer.Option(help="Certify the median of so many new copies, not the median itself."),
    ] = None,
    early: Annotated[
        bool, typer.Option("--early", help="Stop drawing once an image's verdict is settled.")
    ] = False,
    denoiser: Annotated[
        str | None, typer.Option(help="module:callable from noisy images to images.")
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option("--attack", help="l2 attacks to compare with: pgd_l2, autoattack_l2, ..."),
    ] = None,
    attack_draws: Annotated[
        int, typer.Option(min=1, help="Copies that attacks average over.")
    ] = 32,
    angles: Annotated[
        list[float] | None,
        typer.Option("--angles", help="Degrees: also certify features that turn by these."),
    ] = None,
    angle_attack: Annotated[
        list[str] | None,
        typer.Option("--angle-attack", help="Attacks whose angles are measured for comparison."),
    ] = None,
    angle_eps: common.Eps = "8/255",
    image_size: Annotated[
        int, typer.Option(min=8, help="For module:callable: edge of the squares it takes.")
    ] = 224,
    seed: Annotated[int | None, typer.Option(help="Of the noise; default 0.")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder for finished parts; the same command goes on there.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Take from --store what is finished.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Noisy copies scored at once.")] = 64,
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Certify by median smoothing how far l2 attacks can move scores, AUROC, FPR and FNR.

    What is certified is the detector under Gaussian noise; `robustad fit --smooth` makes one that
    knows noise. It says nothing of the detector without noise, nor of l-infinity 8/255.
    """
    from robustad.certificates import certify as run
    from robustad.evaluation.target import imported

    chosen = common.load_data(dataset, data, category)
    found = run(
        model,
        chosen.test,
        sigma=sigma,
        n=n,
        alpha=alpha,
        radii=[_radius(text) for text in radii],
        thresholds=threshold or None,
        sides="two" if two_sided else "one",
        simultaneous=simultaneous,
        test_draws=test_draws,
        early=early,
        denoiser=None if denoiser is None else imported(denoiser),
        attacks=attack or (),
        attack_draws=attack_draws,
        angles=angles or (),
        angle_attacks=angle_attack or (),
        angle_eps=common.parse_eps(angle_eps),
        image_size=image_size,
        seed=seed,
        batch_size=batch_size,
        store=store,
        resume=resume,
        dataset=chosen.name,
        category=chosen.category,
        device=common.parse_device(device),
        progress=not quiet,
    )
    found.settings["command"] = common.command_line()
    if out is not None:
        found.save(out)
        common.say.print(f"wrote {out}")
    if report is not None:
        from robustad.report.certificate import write_certificate_report

        write_certificate_report(found, report)
        common.say.print(f"wrote {report}")
    if json:
        print(found.model_dump_json(indent=1))
        return
    table = Table(title=f"{found.model}, noise {found.sigma:g}", title_justify="left")
    for column in ("l2 radius", "AUROC", "attacked", "FPR", "attacked", "FNR", "attacked", "lost"):
        table.add_column(column, justify="right")
    for point in found.points:
        rates, seen = point.rates[0], point.attacked
        cells: list[float | None] = [point.auroc, None if seen is None else seen.auroc]
        for name in ("fpr", "fnr"):
            cells.append(getattr(rates, name))
            cells.append(None if seen is None else getattr(seen.rates[0], name))
        texts = ["-" if value is None else f"{value:.3f}" for value in cells]
        table.add_row(f"{point.radius:.4g}", *texts, str(point.abstained))
    Console().print(table)
    common.say.print(
        f"clean AUROC {found.clean_auroc:.3f} smoothed, {found.base_auroc:.3f} before; "
        f"reach {found.reach:.4g}; confidence of a row at least {found.confidence:.1%}"
    )
    if found.violations:
        common.say.print(f"warning: {found.violations} attacked scores left their intervals")


def _radius(text: str) -> float:
    try:
        value = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(
            f"--radii: expected numbers such as 0.25 or 64/255, got {text!r}"
        ) from error
    return value
