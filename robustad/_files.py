"""Writing files so that a reader never sees half of one."""

import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustad.errors import InputError


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` only when the block succeeds.

    Parameters
    ----------
    path : str or Path
        The final file. Its parent folder is created.

    Yields
    ------
    Path
        A path in the same folder, with the same suffix, to write to.

    Raises
    ------
    InputError
        If `path` is an existing folder, its parent is not a folder, or it cannot be written there.
    """
    final = Path(path)
    if final.is_dir():
        raise InputError(f"{final}: expected a file name to write to, got an existing folder")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{final}: its parent {final.parent} is not a folder") from error
    except OSError as error:
        raise InputError(f"{final}: cannot be written: {error.strerror}") from error
    aside = final.with_name(f".{secrets.token_hex(8)}.part{final.suffix}")
    try:
        aside.touch(mode=0o666, exist_ok=False)
    except OSError as error:
        raise InputError(f"{final}: cannot be written: {error.strerror}") from error
    # As the umask has it; some writers leave a file of mode 0600, which would hide it from a group.
    mode = stat.S_IMODE(aside.stat().st_mode)
    try:
        yield aside
        aside.chmod(mode)
        aside.replace(final)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def lock(descriptor: int, path: Path) -> None:
    """Lock an open file until it is closed or the process ends, however it ends.

    Parameters
    ----------
    descriptor : int
        Of a file that is open for writing.
    path : Path
        To name in the error.

    Raises
    ------
    InputError
        If another process has locked it.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(f"{path}: in use by another process; give each its own --out") from error


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Keep a folder to this process, by a file `.lock` in it; see `lock`."""
    with (folder / ".lock").open("ab") as file:
        lock(file.fileno(), folder)
        yield
