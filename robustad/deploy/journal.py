"""An append-only file of JSON lines that survives being killed at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from robustad._files import lock
from robustad.errors import InputError, StateError


class Journal:
    """Records that count once `append` has returned, and are read back as they were.

    The process may be killed at any moment. What was being written then is a torn end of the
    file; it is cut off when the journal is opened again.

    Parameters
    ----------
    path : str or Path
        The file; created, with its folder, if it is not there.

    Attributes
    ----------
    torn_bytes : int
        How much was cut off at the end.

    Raises
    ------
    InputError
        If another process has it open.
    StateError
        If the file is damaged elsewhere than at its end, or no journal.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "journal.jsonl"
    >>> with Journal(path) as journal:
    ...     journal.append([{"a": 1}, {"a": 2}])
    >>> _ = path.write_bytes(path.read_bytes() + b'{"a": 3')
    >>> with Journal(path) as journal:
    ...     print(list(journal), journal.torn_bytes)
    [{'a': 1}, {'a': 2}] 7
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        created = not self.path.exists()
        self._file = self.path.open("ab")
        try:
            lock(self._file.fileno(), self.path)
            if created:
                _sync_folder(self.path.parent)
            end = sum(length for _, length in _lines(self.path))
            self.torn_bytes = self.path.stat().st_size - end
            if self.torn_bytes:
                self._file.truncate(end)
                os.fsync(self._file.fileno())
        except BaseException:
            self._file.close()
            raise

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write records and wait until they are on the disk.

        Raises
        ------
        StateError
            If they cannot be written, as on a full disk.
        """
        text = "".join(json.dumps(record) + "\n" for record in records)
        try:
            self._file.write(text.encode("ascii"))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StateError(f"{self.path}: cannot be written: {error.strerror}") from error

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All records, read one by one."""
        return (record for record, _ in _lines(self.path))

    def close(self) -> None:
        """Let others open it."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_journal(path: str | Path) -> Iterator[dict[str, Any]]:
    """Records of a journal that another process may be writing; a torn end is left out.

    Raises
    ------
    InputError
        If there is no such file.
    StateError
        If it is damaged elsewhere than at its end.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such journal")
    return (record for record, _ in _lines(Path(path)))


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Records and their lengths in bytes, up to a torn end."""
    bad: int | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = _parse(line)
            if record is None:
                bad = number if bad is None else bad
            elif bad is not None:
                raise StateError(
                    f"{path}: line {bad} is damaged, and {number} is not: expected a journal of "
                    "JSON lines that was cut off at its end at most; move it away to start anew"
                )
            else:
                yield record, len(line)


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
