"""Writing the viewer's folder: the page, the engine beside it and, if asked for, a detector."""

from __future__ import annotations

import json
import secrets
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from robustad import __version__
from robustad.errors import InputError, MissingDependencyError
from robustad.runtime._header import read_header
from robustad.runtime._session import check_file
from robustad.runtime.integrity import check_integrity, manifest_file

PACKAGE = "onnxruntime-web"
# As of package.json beside this file; a test compares. The page was tested with it.
PACKAGE_VERSION = "1.30.0"
OLDEST = (1, 20)
# What the page needs of it, and the names that any web server knows a type for.
RUNTIME_FILES = {
    "ort.wasm.min.mjs": "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
# Tells a folder that this module wrote; the page reads it.
SETTINGS = "viewer.json"


def write_viewer(
    out: str | Path, *, model: str | Path | None = None, runtime_dir: str | Path | None = None
) -> Path:
    """Write a folder that shows exported detectors at work in a browser.

    Any web server can serve it, for instance `python3 -m http.server`; it needs no network then.
    Images and detectors are read by the page and never sent.

    Parameters
    ----------
    out : str or Path
        The folder. One that was written by this function is replaced.
    model : str or Path, optional
        Exported `.onnx` file that the page opens by itself; others can be chosen on it.
    runtime_dir : str or Path, optional
        Where the npm package onnxruntime-web is: its folder, its `dist`, or a folder with
        `node_modules`. By default `node_modules` of this folder or one above.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        If `out` holds something else, there is no such model or it cannot run in a browser, or
        `runtime_dir` does not hold the package.
    StateError
        If the model is truncated, no ONNX, or differs from the manifest beside it.
    MissingDependencyError
        If no `runtime_dir` is given and the package is not found; says how to get it.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or _is_ours(out))):
        raise InputError(f"{out}: expected a new or empty folder, or a viewer's own")
    source = None if model is None else _check_model(Path(model))
    runtime, version = find_runtime(runtime_dir)
    aside = out.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with as_file(files("robustad.viewer") / "page") as page:
            shutil.copytree(page, aside)
        (aside / "runtime").mkdir()
        for name, served in RUNTIME_FILES.items():
            shutil.copyfile(runtime / name, aside / "runtime" / served)
        if source is not None:
            shutil.copyfile(source, aside / source.name)
            if manifest_file(source).is_file():
                shutil.copyfile(manifest_file(source), aside / manifest_file(source).name)
        settings = {
            "robustad": __version__,
            PACKAGE: version,
            "model": None if source is None else source.name,
        }
        (aside / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        aside.rename(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


def find_runtime(folder: str | Path | None) -> tuple[Path, str]:
    """Find the folder of onnxruntime-web's built files, and its version.

    Parameters
    ----------
    folder : str or Path, optional
        See `write_viewer`.

    Raises
    ------
    InputError
        If `folder` does not hold the package, or an older one than the page can use.
    MissingDependencyError
        If no folder is given and none is found.
    """
    if folder is None:
        here = Path.cwd()
        for place in (here, *here.parents):
            found = _built(place / "node_modules" / PACKAGE)
            if found is not None:
                return found, _version(found)
        raise MissingDependencyError(
            f"the viewer needs the npm package {PACKAGE}, which is not in node_modules here: "
            f"`npm install {PACKAGE}@{PACKAGE_VERSION}` on a machine with network, or `npm pack` "
            "and unpack it; then name its folder by --runtime-dir (runtime_dir). Once written, "
            "the viewer needs no network"
        )
    places = (Path(folder), Path(folder, "package"), Path(folder, "node_modules", PACKAGE))
    for place in places:
        found = _built(place)
        if found is not None:
            return found, _version(found)
    raise InputError(
        f"{folder}: expected the npm package {PACKAGE} with {', '.join(RUNTIME_FILES)}, found none"
    )


def _built(place: Path) -> Path | None:
    """Folder of the files that are needed: this one or its `dist`."""
    for folder in (place, place / "dist"):
        if all((folder / name).is_file() for name in RUNTIME_FILES):
            return folder
    return None


def _version(built: Path) -> str:
    for folder in (built, built.parent):
        try:
            said = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(said, dict) and said.get("name") == PACKAGE:
            version = str(said.get("version"))
            numbers = [int(part) for part in version.split("-")[0].split(".") if part.isdecimal()]
            if tuple(numbers[:2]) < OLDEST:
                raise InputError(
                    f"{built}: {PACKAGE} {version}, expected {OLDEST[0]}.{OLDEST[1]} or newer"
                )
            return version
    return "unknown"


def _check_model(path: Path) -> Path:
    check_integrity(check_file(path), "auto")
    if path.with_name(path.name + ".data").is_file():
        raise InputError(f"{path}: has a .data file beside it; a browser cannot hold such a file")
    if path.name in (SETTINGS, "index.html"):
        raise InputError(f"{path}: expected a file with another name")
    if "robustad" in read_header(path).opsets:
        raise InputError(
            f"{path}: uses operators of robustad's own, which browsers have not; export it "
            "without custom_ops"
        )
    return path


def _is_ours(folder: Path) -> bool:
    return (folder / SETTINGS).is_file() and (folder / "index.html").is_file()
