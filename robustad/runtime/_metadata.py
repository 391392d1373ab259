"""Reading the JSON document of an exported file, checked by hand: no pydantic on a line PC."""

import json
from collections.abc import Mapping
from typing import Any

from robustad.conformal.risk import RiskThreshold
from robustad.conformal.scores import ConformalScores
from robustad.errors import InputError, StateError
from robustad.geometry import Geometry
from robustad.probability import check_state
from robustad.verdict import Policy

# The key under which the document lies in the file's metadata, and its version.
KEY = "robustad"
SCHEMA_VERSION = 3

INPUT = "image"
# Forms of the input, by what the document says of its type and layout.
FLOATS, BYTES = "float_nchw", "uint8_nhwc"
FORMS = {("float32", "NCHW"): FLOATS, ("uint8", "NHWC"): BYTES}
CALIBRATION = ("calibration_slope", "calibration_intercept")
CONFORMAL = "conformal_scores"
ANOMALOUS = "conformal_anomalous"
# Files of older versions lack what comes after the map.
OLD_OUTPUTS = ("score", "probability", "entropy", "patch_scores", "anomaly_map")
OUTPUTS = (*OLD_OUTPUTS, "p_value", "verdict")
OPTIONAL_OUTPUTS = ("probability_map",)  # of files with a pixel calibration
# What runs files; one that is made for an engine says so, see `target_engine`.
ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
ENGINES = (ONNXRUNTIME, OPENVINO)


def parse(properties: Mapping[str, str], path: str) -> dict[str, Any]:
    """Take the document out of a file's metadata and check what the runtime relies on.

    Parameters
    ----------
    properties : mapping of str to str
        The file's custom metadata.
    path : str
        For messages.

    Returns
    -------
    dict
        As described by `docs/artefact.schema.json`.

    Raises
    ------
    StateError
        If there is no document, it is damaged, or a newer robustad wrote it.
    """
    text = properties.get(KEY)
    if text is None:
        raise StateError(f"{path}: an ONNX file, but not one exported by robustad (no metadata)")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise StateError(f"{path}: its robustad metadata is no JSON: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise StateError(f"{path}: its robustad metadata has no schema_version")
    if version > SCHEMA_VERSION:
        raise StateError(
            f"{path}: written by a newer robustad (metadata version {version}, this one reads up "
            f"to {SCHEMA_VERSION}); upgrade robustad"
        )
    try:
        geometry(document)
        policy(document)
        conformal(document)
        pixel_threshold(document)
        if document["calibration"] is not None:
            check_state(document["calibration"])
        if document.get("pixel_calibration") is not None:
            check_state({**document["pixel_calibration"], "method": "platt"}, "pixel_calibration")
        contract, patch_size = document["input"], document["patch_size"]
        input_form(document)
        target_engine(document)
        for edge in ("height", "width"):
            if contract[edge] is not None and not isinstance(contract[edge], int):
                raise TypeError(f"input.{edge} is {contract[edge]!r}")
        if not isinstance(patch_size, int) or patch_size < 1:
            raise TypeError(f"patch_size is {patch_size!r}")
    except KeyError as error:
        raise StateError(f"{path}: its robustad metadata lacks {error}") from error
    except (TypeError, InputError, StateError) as error:
        raise StateError(f"{path}: its robustad metadata is damaged: {error}") from error
    return dict(document)


def input_form(document: Mapping[str, Any]) -> str:
    """Which of `FORMS` the input takes; files before version 3 say no more than the size."""
    contract = document["input"]
    said = (contract.get("dtype", "float32"), contract.get("layout", "NCHW"))
    if said not in FORMS:
        raise TypeError(f"input is {said[0]} {said[1]}")
    return FORMS[said]


def target_engine(document: Mapping[str, Any]) -> str:
    """Which of `ENGINES` a file was made for; onnxruntime where it does not say."""
    target = document.get("target")
    if target is None:
        return ONNXRUNTIME
    engine = target.get("engine") if isinstance(target, Mapping) else None
    if engine not in ENGINES:
        raise TypeError(f"target is {target!r}")
    return str(engine)


def geometry(document: Mapping[str, Any]) -> Geometry:
    """Take the way from an image to the file's input from the document."""
    stored = document["geometry"]
    return Geometry(size=stored["size"], multiple=stored["multiple"], square=stored["square"])


def policy(document: Mapping[str, Any]) -> Policy:
    """Take the policy that the file was exported with from the document."""
    stored = document["policy"]
    if not isinstance(stored, Mapping):
        raise TypeError(f"policy is {stored!r}")
    for name in ("threshold", "entropy_threshold"):
        stored[name]  # every version has these
    return Policy.from_dict(stored)


def conformal(document: Mapping[str, Any]) -> ConformalScores | None:
    """Take the held-out scores from the document, if it has any."""
    stored = document.get("conformal")
    return None if stored is None else ConformalScores.from_dict(stored)


def pixel_threshold(document: Mapping[str, Any]) -> RiskThreshold | None:
    """Take the pixel threshold from the document, if it has one."""
    stored = document.get("pixel_threshold")
    return None if stored is None else RiskThreshold.from_dict(stored)
