"""Which models PatchGuard's tables need, each once, and how each is evaluated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robustad.attacks import preset as attack_preset
from robustad.errors import InputError
from robustad.reproduce import store
from robustad.reproduce.patchguard_variants import TABLES, l2_attacks, variants
from robustad.training import TrainingConfig, preset

Row = tuple[str, str]  # a table and a row of it


@dataclass(frozen=True, kw_only=True)
class PatchGuardStudy:
    """Everything that determines the study's results, apart from the images.

    Attributes
    ----------
    dataset : str
        As `robustad.data.load` takes it.
    tables : tuple of str
        Of `robustad.reproduce.patchguard_variants.TABLES`.
    preset : str
        Training preset or YAML file that all tables start from.
    overrides : tuple of str
        `FIELD=VALUE` of its fields; a table's own choice comes after them.
    attacks : tuple of str
        Run beside the clean pass, at the radius trained at.
    batch_size : int
        Images attacked at once.
    """

    dataset: str = "mvtec"
    tables: tuple[str, ...] = ("main",)
    preset: str = "robust"
    overrides: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ("pgd1000_flip", "pgd1000")
    batch_size: int = 16


@dataclass(frozen=True, kw_only=True)
class Check:
    """One evaluation of a trained model: radius and attacks, and the rows it is for."""

    eps: float
    attacks: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model to train and evaluate.

    Attributes
    ----------
    index : int
        Place in the study, from 1.
    root : Path or None
        Folder of the data set.
    category : str
        What it is trained on.
    config : TrainingConfig
        How it is trained.
    checks : tuple of Check
        How it is evaluated.
    """

    index: int
    root: Path | None
    category: str
    config: TrainingConfig
    checks: tuple[Check, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Rows of tables that it is for."""
        return tuple(row for check in self.checks for row in check.rows)

    @property
    def name(self) -> str:
        """Category and rows, in a line."""
        rows = ", ".join(f"{table}: {row}" for table, row in self.rows)
        return f"{self.category} ({rows})"


def plan(
    study: PatchGuardStudy, roots: Sequence[Path | None], *, only: Sequence[str] = ()
) -> list[Run]:
    """Every model that the tables need, once each.

    Parameters
    ----------
    study : PatchGuardStudy
        What to run.
    roots : sequence of Path or None
        Folders of the data set; None for generated data.
    only : sequence of str, optional
        Categories to take; default all.

    Returns
    -------
    list of Run
        Table by table in the order of `TABLES`, in each category by category; always the same
        order for the same arguments. A model that several rows need is in the place of the first.

    Raises
    ------
    InputError
        If a table, category, attack, preset or field is unknown, or a value out of range.
    """
    for name in study.attacks:
        if attack_preset(name).objective == "probe":
            raise InputError(
                f"attack: {name} needs features to fit a probe on; PatchGuard has none"
            )
    if not study.attacks:
        raise InputError("attack: expected at least one, got none")
    base = preset(study.preset, study.overrides)
    chosen = store.chosen_categories(study.dataset, roots, only)
    for table in study.tables:
        variants(table, base)  # refuses unknown ones
    found: dict[tuple[Path | None, str, str], Run] = {}
    for table in (name for name in TABLES if name in study.tables):
        for variant in variants(table, base):
            # JSON is YAML, so a table's overrides go where the command line's go.
            own = [f"{name}={json.dumps(value)}" for name, value in variant.overrides.items()]
            config = preset(study.preset, [*study.overrides, *own])
            attacks = study.attacks if variant.l2 is None else tuple(l2_attacks(study.attacks))
            eps = config.attack.eps if variant.l2 is None else variant.l2
            check = Check(eps=eps, attacks=attacks, rows=((table, variant.name),))
            for root, category in chosen:
                key = (root, category, store.fingerprint(config.fingerprint()))
                run = found.get(key) or Run(
                    index=len(found) + 1, root=root, category=category, config=config, checks=()
                )
                found[key] = replace(run, checks=_joined(run.checks, check))
    return list(found.values())


def _joined(checks: tuple[Check, ...], new: Check) -> tuple[Check, ...]:
    """Add a check, or its rows to one that is the same evaluation."""
    for place, old in enumerate(checks):
        if (old.eps, old.attacks) == (new.eps, new.attacks):
            both = replace(old, rows=old.rows + new.rows)
            return (*checks[:place], both, *checks[place + 1 :])
    return (*checks, new)
