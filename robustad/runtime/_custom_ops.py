"""robustad's own ONNX operators: the library that onnxruntime needs for files that use them."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from robustad.errors import MissingDependencyError, StateError

# The operators' domain in an ONNX file, and the version of it that this library has.
DOMAIN, VERSION = "robustad", 1
LIBRARY = "_ort_ops"


def custom_ops_library() -> Path:
    """Where the library of robustad's operators for onnxruntime lies.

    Files written by `export_onnx(..., custom_ops=True)` need it. `robustad.runtime.load` registers
    it by itself; other programs call `SessionOptions.register_custom_ops_library(path)`, or what
    their language has for it, before they open such a file. It needs neither Python nor torch.

    Returns
    -------
    Path
        Of the shared library.

    Raises
    ------
    MissingDependencyError
        If it was not built when robustad was installed.

    Examples
    --------
    >>> custom_ops_library().name.startswith("_ort_ops")
    True
    """
    path = Path(__file__).with_name(LIBRARY + EXTENSION_SUFFIXES[0])
    if not path.is_file():
        raise MissingDependencyError(
            f"robustad's operators for onnxruntime were not built ({path.name} is missing): "
            "install robustad from its source with a C++17 compiler and ROBUSTAD_ORT_OPS=1, which "
            "tells why it fails, or export the file without custom_ops"
        )
    return path


def register(options: Any, opsets: dict[str, int], path: Path) -> None:
    """Give a session the operators that its file asks for.

    Parameters
    ----------
    options : onnxruntime.SessionOptions
        Of the session.
    opsets : dict of str to int
        Versions of the operators that the file uses, by domain.
    path : Path
        The file, for messages.

    Raises
    ------
    StateError
        If the file uses newer operators, or the library cannot be loaded.
    MissingDependencyError
        If the library was not built.
    """
    version = opsets.get(DOMAIN)
    if version is None:
        return
    if version > VERSION:
        raise StateError(
            f"{path}: uses version {version} of robustad's operators, this installation has version"
            f" {VERSION}: upgrade robustad, or export again without custom_ops"
        )
    try:
        library = custom_ops_library()
    except MissingDependencyError as error:
        raise MissingDependencyError(f"{path}: {error}") from error
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:  # onnxruntime has a class a failure
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StateError(f"{library}: cannot be loaded by onnxruntime: {reason}") from error
