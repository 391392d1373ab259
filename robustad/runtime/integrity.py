"""Whether an exported file is the one that was written: a SHA-256 manifest beside it."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

from robustad.errors import InputError, StateError

Integrity: TypeAlias = Literal["auto", "require", "skip"]
MODES = ("auto", "require", "skip")
SUFFIX = ".sha256"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_HEX = re.compile(r"[0-9a-f]{64}")


def manifest_file(path: str | Path) -> Path:
    """Where the manifest of a file lies: `screws.onnx.sha256` beside `screws.onnx`.

    Examples
    --------
    >>> manifest_file("screws.onnx").name
    'screws.onnx.sha256'
    """
    path = Path(path)
    return path.with_name(path.name + SUFFIX)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; reads it in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_text(files: Iterable[str | Path]) -> str:
    """Text of a manifest: a line `digest  name` a file, as `sha256sum` writes and checks it.

    Parameters
    ----------
    files : iterable of path
        Files that lie side by side.
    """
    return "".join(f"{sha256_of(path)}  {Path(path).name}\n" for path in files)


def check_integrity(
    path: str | Path, mode: Integrity = "auto", *, sha256: str | None = None
) -> list[str]:
    """Compare a file, and its `.data` if there is one, with the manifest beside it.

    Parameters
    ----------
    path : str or Path
        The `.onnx` file.
    mode : {"auto", "require", "skip"}, default "auto"
        `auto` checks where there is a manifest, `require` refuses a file without one, `skip` does
        not look.
    sha256 : str, optional
        SHA-256 of the manifest itself, known from elsewhere: whoever can change the file can also
        change the manifest beside it, but not this. Implies `require`.

    Returns
    -------
    list of str
        Names of the files that were compared; empty if there was nothing to compare with.

    Raises
    ------
    InputError
        If an option is none of these.
    StateError
        If a file was changed, truncated or is missing, or the manifest is missing though required,
        damaged, for another file, or not the one of `sha256`.
    """
    if mode not in MODES:
        raise InputError(f"integrity: expected one of {', '.join(MODES)}, got {mode!r}")
    if sha256 is not None:
        sha256 = sha256.lower()
        if not _HEX.fullmatch(sha256):
            raise InputError(f"sha256: expected 64 hexadecimal digits, got {sha256!r}")
        mode = "require"
    path = Path(path)
    manifest = manifest_file(path)
    if mode == "skip":
        return []
    if not manifest.is_file():
        if mode == "require":
            raise StateError(
                f"{path}: expected its SHA-256 manifest {manifest.name} beside it, found none"
            )
        return []
    if sha256 is not None and (found := sha256_of(manifest)) != sha256:
        raise StateError(f"{manifest}: expected the manifest with SHA-256 {sha256}, got {found}")
    listed = _listed(manifest)
    if path.name not in listed:
        raise StateError(
            f"{manifest}: lists {', '.join(listed)}, but not {path.name}: was the file renamed?"
        )
    for name, expected in listed.items():
        file = path.with_name(name)
        if not file.is_file():
            raise StateError(f"{file}: listed in {manifest.name}, but missing")
        found = sha256_of(file)
        if found != expected:
            raise StateError(
                f"{file}: changed or truncated since it was exported (SHA-256 {found[:16]}..., "
                f"{manifest.name} says {expected[:16]}...)"
            )
    return list(listed)


def _listed(manifest: Path) -> dict[str, str]:
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise StateError(f"{manifest}: a damaged manifest: {error}") from error
    listed: dict[str, str] = {}
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None or Path(found[2]).name != found[2]:
            raise StateError(
                f"{manifest}: a damaged manifest: expected lines of a SHA-256 and the name of a "
                f"file beside it, got {line[:100]!r}"
            )
        listed[found[2]] = found[1]
    if not listed:
        raise StateError(f"{manifest}: a damaged manifest: it is empty")
    return listed
