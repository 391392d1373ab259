"""The two published sets that come with a table in place of a split into folders."""

import csv
from pathlib import Path
from typing import Any

from robustad.data._scan import entries_in
from robustad.data.dataset import ANOMALOUS, NORMAL, Dataset, Sample
from robustad.errors import DataError

VISA_TABLE = Path("split_csv/1cls.csv")
HEADCT_TABLE = Path("labels.csv")


def visa_categories(root: Path) -> list[str]:
    """Categories listed in VisA's split file."""
    return sorted({row["object"] for _, row in _visa_rows(root)})


def read_visa(root: Path, category: str) -> Dataset:
    """Read a category of VisA by its official one-class split file.

    Samples are named as in the reorganised layout (`train/good/0000.JPG`, `test/bad/000.JPG`), so
    that both layouts give the same shots and splits.
    """
    train: list[Sample] = []
    test: list[Sample] = []
    for line, row in _visa_rows(root):
        if row["object"] != category:
            continue
        split, normal = row["split"], row["label"] == "normal"
        where = f"{root / VISA_TABLE}, line {line}"
        if split not in ("train", "test") or (split == "train" and not normal):
            raise DataError(
                f"{where}: expected the one-class split (normal images in `train`, others in "
                f"`test`), got {row['label']!r} in {split!r}"
            )
        image = _listed(root / row["image"], where)
        defect = "good" if normal else "bad"
        mask = None
        if not normal:
            if not row["mask"]:
                raise DataError(f"{where}: anomalous image {row['image']} without a mask")
            mask = _listed(root / row["mask"], where)
        sample = Sample(
            image=image,
            label=NORMAL if normal else ANOMALOUS,
            name=f"{split}/{defect}/{image.name}",
            defect=defect,
            mask=mask,
        )
        (train if split == "train" else test).append(sample)
    return Dataset(name="visa", category=category, train=tuple(train), test=tuple(test))


def read_headct(root: Path) -> Dataset:
    """Read Head-CT by its label table.

    The set has no split. Ours: sorted by file name, the first half of the normal slices trains,
    the second half and all slices with a hemorrhage are the test set.
    """
    table = root / HEADCT_TABLE
    folder = root / "head_ct"
    if (folder / "head_ct").is_dir():  # the archive nests it twice
        folder = folder / "head_ct"
    listed: dict[Path, int] = {}
    for line, row in _rows(table, ("id", "hemorrhage")):
        where = f"{table}, line {line}"
        try:
            number, label = int(row["id"]), int(row["hemorrhage"])
        except ValueError as error:
            raise DataError(
                f"{where}: expected two integers, got {row['id']!r}, {row['hemorrhage']!r}"
            ) from error
        if label not in (NORMAL, ANOMALOUS):
            raise DataError(f"{where}: expected hemorrhage 0 or 1, got {label}")
        image = _listed(folder / f"{number:03d}.png", where)
        if image in listed:
            raise DataError(f"{where}: expected each id once, got {number} again")
        listed[image] = label
    for path in entries_in(folder):
        if path.suffix.lower() == ".png" and path not in listed:
            raise DataError(f"{path}: expected a row for each image in {table}, got none")
    normal = sorted(path for path, label in listed.items() if label == NORMAL)
    bleeding = sorted(path for path, label in listed.items() if label == ANOMALOUS)
    if len(normal) < 2 or not bleeding:
        raise DataError(
            f"{table}: expected at least 2 normal slices and 1 with a hemorrhage, "
            f"got {len(normal)} and {len(bleeding)}"
        )
    half = len(normal) // 2

    def sample(path: Path, **fields: Any) -> Sample:
        return Sample(image=path, name=f"head_ct/{path.name}", **fields)

    return Dataset(
        name="headct",
        category="head",
        train=tuple(sample(path, label=NORMAL) for path in normal[:half]),
        test=(
            *(sample(path, label=NORMAL) for path in normal[half:]),
            *(sample(path, label=ANOMALOUS, defect="hemorrhage") for path in bleeding),
        ),
    )


def _visa_rows(root: Path) -> list[tuple[int, dict[str, str]]]:
    return _rows(root / VISA_TABLE, ("object", "split", "label", "image", "mask"))


def _rows(table: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a comma-separated table with their line numbers, stripped of blanks."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a table: {error}") from error
    head = ", ".join(columns)
    if not lines or tuple(lines[0]) != columns:
        got = ", ".join(lines[0]) if lines else "an empty file"
        raise DataError(f"{table}: expected the columns {head}, got {got}")
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cells):
            continue
        if len(cells) != len(columns):
            raise DataError(f"{table}, line {number}: expected {head}, got {', '.join(cells)}")
        rows.append((number, dict(zip(columns, cells, strict=True))))
    return rows


def _listed(path: Path, where: str) -> Path:
    if not path.is_file():
        raise DataError(f"{where}: lists {path}, which does not exist")
    return path
