"""What a run leaves for its reader: `log.csv`, and event files for TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from robustad._files import write_text


class Log:
    """Rows of figures, one an epoch.

    Parameters
    ----------
    folder : Path
        Gets `log.csv`, and `tensorboard/` where the package tensorboard is installed.
    history : sequence of dict
        Rows of an earlier part of the run; the files continue them.
    """

    def __init__(self, folder: Path, history: Sequence[Mapping[str, float]] = ()) -> None:
        self.path = folder / "log.csv"
        self.rows = [dict(row) for row in history]
        self._folder = folder / "tensorboard"
        self._writer: Any = None

    def add(self, row: Mapping[str, float]) -> None:
        """Write one more row; the CSV is written whole, so that a kill leaves no half of a line."""
        self.rows.append(dict(row))
        names = list(dict.fromkeys(name for one in self.rows for name in one))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())
        if self._writer is None:  # not before: a finished run that is asked for again logs nothing
            self._writer = _tensorboard(self._folder, first=int(row["epoch"]))
        if self._writer is not None:
            epoch = int(row["epoch"])
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, epoch)
            self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tensorboard(folder: Path, *, first: int) -> Any:
    """Make a writer whose events replace those from epoch `first` on; None without the package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first)
