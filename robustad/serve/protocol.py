"""KServe's V2 inference protocol: requests and answers in JSON, tensors in JSON or binary."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from robustad.serve.batcher import FloatArray, Scores
from robustad.serve.limits import Limits, Refusal

LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data"]
# name: (datatype, shape), -1 for what is free; a request has exactly one of them
INPUTS: dict[str, tuple[str, list[int]]] = {
    "image": ("FP32", [-1, 3, -1, -1]),
    "pixels": ("UINT8", [-1, -1, -1, 3]),
    "file": ("BYTES", [-1]),
}
OUTPUTS: dict[str, tuple[str, list[int]]] = {
    "score": ("FP32", [-1]),
    "probability": ("FP32", [-1]),
    "entropy": ("FP32", [-1]),
    "verdict": ("BYTES", [-1]),
    "patch_scores": ("FP32", [-1, -1]),
    "anomaly_map": ("FP32", [-1, -1, -1]),
}
DTYPES: dict[str, npt.DTypeLike] = {"FP32": "<f4", "UINT8": "u1"}


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A request that has been understood.

    Attributes
    ----------
    id : str or None
        To be sent back.
    name : str
        Of the input: `image`, `pixels` or `file`.
    tensor : array, or list of bytes
        `image` (B, 3, H, W), float32; `pixels` (B, H, W, 3), uint8; `file`: B files.
    outputs : dict of str to bool
        Those wanted, and whether in binary.
    """

    id: str | None
    name: str
    tensor: npt.NDArray[Any] | list[bytes]
    outputs: dict[str, bool]


def parse(body: bytes, header_length: str | None, limits: Limits) -> InferRequest:
    """Read a request.

    Parameters
    ----------
    body : bytes
        Of the HTTP request.
    header_length : str or None
        Value of the header `Inference-Header-Content-Length`: where the JSON part ends.
    limits : Limits
        `images` and `pixels` count here.

    Raises
    ------
    Refusal
        400 or 413, with what is wrong.
    """
    end = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdecimal():
            raise Refusal(400, f"{LENGTH}: expected a number, got {header_length[:40]!r}")
        end = int(header_length[:20])
        if end > len(body):
            raise Refusal(400, f"{LENGTH}: {end} bytes announced, {len(body)} came")
    document = _json(body[:end])
    identity = document.get("id")
    if identity is not None and not isinstance(identity, str):
        _expected("id", "a string", identity)
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        _expected("inputs", f"a list of one tensor, {', '.join(INPUTS)}", inputs)
    name, tensor = _input(inputs[0], memoryview(body)[end:], limits)
    parameters = _parameters(document, "the request")
    outputs = _outputs(document.get("outputs"), bool(parameters.get("binary_data_output", False)))
    return InferRequest(id=identity, name=name, tensor=tensor, outputs=outputs)


def encode(
    request: InferRequest, scores: Scores, model: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """Write an answer: its body, and the headers that go with it.

    Raises
    ------
    Refusal
        400 if images of several sizes were given and maps are wanted: they are no tensor.
    """
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, binary in request.outputs.items():
        datatype = OUTPUTS[name][0]
        values = getattr(scores, name)
        entry: dict[str, Any] = {"name": name, "datatype": datatype}
        if datatype == "BYTES":
            entry["shape"] = [len(values)]
            texts = [str(value).encode() for value in values]
            blob = b"".join(struct.pack("<I", len(text)) + text for text in texts)
            plain: list[Any] = [str(value) for value in values]
        else:
            array = _stacked(name, values)
            entry["shape"] = list(array.shape)
            blob = array.tobytes() if binary else b""
            plain = [] if binary else _plain(array)
        if binary:
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            entry["data"] = plain
        described.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        document["id"] = request.id
    text = json.dumps({**document, "outputs": described}).encode()
    if not blobs:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", LENGTH: str(len(text))}
    return b"".join([text, *blobs]), headers


def tensors(described: Mapping[str, tuple[str, list[int]]]) -> list[dict[str, Any]]:
    """Inputs or outputs as model metadata list them."""
    return [{"name": n, "datatype": d, "shape": s} for n, (d, s) in described.items()]


def _json(text: bytes) -> dict[str, Any]:
    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    try:
        document = json.loads(text, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"expected a JSON document: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        _expected("the request", "a JSON object", document)
    return document


def _parameters(owner: Mapping[str, Any], what: str) -> dict[str, Any]:
    parameters = owner.get("parameters", {})
    if not isinstance(parameters, dict):
        _expected(f"parameters of {what}", "an object", parameters)
    return parameters


def _input(
    entry: dict[str, Any], rest: memoryview, limits: Limits
) -> tuple[str, npt.NDArray[Any] | list[bytes]]:
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if not isinstance(name, str) or name not in INPUTS:
        _expected("input", f"one of {', '.join(INPUTS)}", name)
    wanted, pattern = INPUTS[name]
    if datatype != wanted:
        _expected(f"datatype of {name}", wanted, datatype)
    fits = (
        isinstance(shape, list)
        and len(shape) == len(pattern)
        and all(type(n) is int and n > 0 for n in shape)
        and all(p in (-1, n) for p, n in zip(pattern, shape, strict=True))
    )
    if not (isinstance(shape, list) and fits):
        _expected(f"shape of {name}", f"{pattern} with positive numbers for -1", shape)
    check_size(shape[0], _pixels(name, shape), limits)
    parameters = _parameters(entry, name)
    size = parameters.get("binary_data_size")
    if size is not None:
        if "data" in entry or type(size) is not int or size != len(rest):
            raise Refusal(
                400,
                f"{name}: expected binary_data_size {len(rest)}, the bytes that follow the JSON "
                f"part, and no data in it, got {str(size)[:40]}",
            )
        return name, _from_binary(name, datatype, shape, rest)
    if len(rest):
        raise Refusal(
            400, f"{name}: {len(rest)} bytes follow the JSON part, binary_data_size lacks"
        )
    return name, _from_json(name, datatype, shape, entry.get("data"))


def check_size(images: int, pixels: int, limits: Limits) -> None:
    """Refuse more images, or more pixels an image, than there may be."""
    if images > limits.images:
        raise Refusal(413, f"expected at most {limits.images} images in a request, got {images}")
    if pixels > limits.pixels:
        raise Refusal(413, f"expected images of at most {limits.pixels} pixels, got {pixels}")


def _pixels(name: str, shape: list[int]) -> int:
    return {"image": shape[2:], "pixels": shape[1:3], "file": [0]}[name][0] * prod(
        {"image": shape[3:], "pixels": shape[2:3], "file": []}[name]
    )


def _from_binary(
    name: str, datatype: str, shape: list[int], data: memoryview
) -> npt.NDArray[Any] | list[bytes]:
    if datatype == "BYTES":
        elements, place = [], 0
        while place + 4 <= len(data):
            (length,) = struct.unpack_from("<I", data, place)
            elements.append(bytes(data[place + 4 : place + 4 + length]))
            place += 4 + length
        if place != len(data) or len(elements) != shape[0]:
            raise Refusal(
                400,
                f"{name}: expected {shape[0]} elements, each after its length in 4 bytes, got "
                f"{len(elements)} in {len(data)} bytes",
            )
        return elements
    dtype = np.dtype(DTYPES[datatype])
    expected = prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise Refusal(400, f"{name}: expected {expected} bytes for shape {shape}, got {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape)


def _from_json(
    name: str, datatype: str, shape: list[int], data: Any
) -> npt.NDArray[Any] | list[bytes]:
    if not isinstance(data, list):
        _expected(f"data of {name}", "a list", data)
    if datatype == "BYTES":
        try:
            elements = [base64.b64decode(element, validate=True) for element in data]
        except (TypeError, ValueError) as error:
            raise Refusal(400, f"data of {name}: expected base64 strings: {error}") from error
        if len(elements) != shape[0]:
            _expected(f"data of {name}", f"{shape[0]} strings", f"{len(elements)} strings")
        return elements
    try:
        array = np.array(data)
    except ValueError as error:
        raise Refusal(400, f"data of {name}: expected numbers, flat or nested evenly") from error
    if array.dtype.kind not in ("iuf" if datatype == "FP32" else "iu"):
        _expected(
            f"data of {name}", "numbers" if datatype == "FP32" else "integers", str(array.dtype)
        )
    if array.size != prod(shape) or (array.ndim > 1 and list(array.shape) != shape):
        _expected(f"data of {name}", f"{prod(shape)} numbers for shape {shape}", list(array.shape))
    if datatype == "UINT8" and (array.min() < 0 or array.max() > 255):
        _expected(f"data of {name}", "integers in 0..255", f"{array.min()}..{array.max()}")
    with np.errstate(over="ignore"):
        return array.astype(DTYPES[datatype]).reshape(shape)


def _outputs(entries: Any, binary: bool) -> dict[str, bool]:
    if entries is None:
        return dict.fromkeys(OUTPUTS, binary)
    if not isinstance(entries, list) or not entries:
        _expected("outputs", "a list of outputs, or none at all", entries)
    wanted: dict[str, bool] = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS:
            _expected("output", f"one of {', '.join(OUTPUTS)}", name)
        wanted[name] = bool(_parameters(entry, name).get("binary_data", binary))
    return wanted


def _stacked(name: str, values: Any) -> FloatArray:
    if isinstance(values, list):
        if len({value.shape for value in values}) > 1:
            raise Refusal(400, f"{name}: images of several sizes give no tensor; ask one by one")
        values = np.stack(values)
    return np.ascontiguousarray(values, "<f4")


def _plain(array: FloatArray) -> list[float | None]:
    flat = array.ravel()
    if np.isfinite(flat).all():
        return [*flat.tolist()]
    return [float(value) if np.isfinite(value) else None for value in flat]


def _expected(what: str, expected: str, got: object) -> NoReturn:
    shown = repr(got) if not isinstance(got, str) else got
    raise Refusal(400, f"{what}: expected {expected}, got {shown[:120]}")
