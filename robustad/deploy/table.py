"""The CSV table of a journal: for spreadsheets; made anew from the journal at every start."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from robustad._files import written_aside

FIRST = ("time", "path", "verdict", "score", "probability", "entropy", "error")
# Only of use to the journal.
HIDDEN = frozenset({"key", "size", "mtime_ns"})


class Table:
    """Appends records to a CSV file.

    Parameters
    ----------
    path : Path
        The file; replaced by one of all records there are.
    records : iterable of mapping
        The records there are; gone through again when a record has a new field.
    """

    def __init__(self, path: Path, records: Iterable[Mapping[str, Any]]) -> None:
        self.path, self._records = path, records
        self._fields: list[str] = list(FIRST)
        self._file: TextIO | None = None
        self._rewrite()

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write records that have just been added to those there are."""
        if _more(self._fields, records):
            self._rewrite()
            return
        writer = csv.DictWriter(self._open(), self._fields, extrasaction="ignore")
        writer.writerows(records)
        self._open().flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> TextIO:
        if self._file is None:
            self._file = self.path.open(
                "a", newline="", encoding="utf-8", errors="backslashreplace"
            )
        return self._file

    def _rewrite(self) -> None:
        self.close()
        self._fields += _more(self._fields, self._records)
        with (
            written_aside(self.path) as aside,
            aside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            writer = csv.DictWriter(file, self._fields, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(_images(self._records))


def _images(records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (record for record in records if "key" in record)


def _more(fields: Sequence[str], records: Iterable[Mapping[str, Any]]) -> list[str]:
    found: dict[str, None] = {}
    for record in _images(records):
        found.update(dict.fromkeys(record.keys() - HIDDEN - set(fields)))
    return sorted(found)
