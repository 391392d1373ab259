"""The command's verbs, put together."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from robustad import __version__
from robustad.cli import (
    attack,
    audit,
    calibrate,
    certify,
    compare,
    conformal,
    data,
    demo,
    evaluate,
    export,
    fit,
    predict,
    preview,
    reproduce,
    reproduce_calibration,
    reproduce_defences,
    reproduce_patchguard,
    score,
    screen,
    serve,
    train,
    viewer,
    watch,
)


class ManyValues(TyperCommand):
    """Options that may be repeated also take several values at once: `--shots 1 2 4`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite `--shots 1 2 4` to `--shots 1 --shots 2 --shots 4`, then parse as usual."""
        many = {name for p in self.params if getattr(p, "multiple", False) for name in p.opts}
        out: list[str] = []
        current: str | None = None
        fresh = False
        for arg in args:
            if arg.startswith("-"):
                current, fresh = (arg, True) if arg in many else (None, False)
                out.append(arg)
            elif current is not None and not fresh:
                out += [current, arg]
            else:
                fresh = False
                out.append(arg)
        return super().parse_args(ctx, out)


app = typer.Typer(
    name="robustad",
    help="Visual anomaly detection that can be trusted under attack.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=ManyValues)(demo.demo)
app.command(cls=ManyValues)(fit.fit)
app.command(cls=ManyValues)(train.train)
app.command(cls=ManyValues)(evaluate.evaluate)
app.command(cls=ManyValues)(attack.attack)
app.command(cls=ManyValues)(audit.audit)
app.command(cls=ManyValues)(compare.compare)
app.command(cls=ManyValues)(certify.certify)
app.command(cls=ManyValues)(calibrate.calibrate)
app.command(cls=ManyValues)(conformal.conformal)
app.command(cls=ManyValues)(predict.predict)
app.command(cls=ManyValues)(screen.screen)
app.command(cls=ManyValues)(preview.preview)
app.command(cls=ManyValues)(export.export)
app.command(cls=ManyValues)(export.verify)
app.command(cls=ManyValues)(score.score)
app.command(cls=ManyValues)(serve.serve)
app.command(cls=ManyValues)(viewer.viewer)
app.command(cls=ManyValues)(watch.watch)
reproduce.app.command(name="fewshot", cls=ManyValues)(reproduce.fewshot)
reproduce.app.command(name="calibration", cls=ManyValues)(reproduce_calibration.calibration)
reproduce.app.command(name="patchguard", cls=ManyValues)(reproduce_patchguard.patchguard)
reproduce.app.command(name="defences", cls=ManyValues)(reproduce_defences.defences)
app.add_typer(reproduce.app, name="reproduce")
app.add_typer(data.app, name="data")


def _version(value: bool) -> None:
    if value:
        print(f"robustad {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Visual anomaly detection that can be trusted under attack."""
