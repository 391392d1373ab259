"""An NVIDIA Triton model repository around an exported file."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from robustad.errors import InputError
from robustad.runtime import _metadata
from robustad.runtime._custom_ops import DOMAIN
from robustad.runtime._session import check_file
from robustad.runtime.golden import read_golden
from robustad.runtime.integrity import check_integrity

if TYPE_CHECKING:
    import onnx

Kind = Literal["auto", "cpu", "gpu"]
KINDS = ("auto", "cpu", "gpu")
WARMUP = "golden"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# ONNX's element types (onnx.proto) as Triton calls them.
TYPES = {1: "TYPE_FP32", 2: "TYPE_UINT8", 10: "TYPE_FP16", 11: "TYPE_FP64", 7: "TYPE_INT64"}
TYPES |= {6: "TYPE_INT32", 9: "TYPE_BOOL", 8: "TYPE_STRING", 3: "TYPE_INT8"}
DTYPES = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_UINT8": np.uint8}


def write_triton(
    path: str | Path,
    repository: str | Path,
    *,
    name: str | None = None,
    version: int = 1,
    max_batch: int = 8,
    max_queue_delay: float = 0.002,
    instances: int = 1,
    kind: Kind = "auto",
    gpus: Sequence[int] | None = None,
    threads: int | None = None,
    custom_ops_library: str | Path | None = None,
) -> Path:
    """Put an exported file into a Triton model repository, ready for `tritonserver`.

    Parameters
    ----------
    path : str or Path
        File written by `export_onnx`. Its manifest, if there is one, is checked first.
    repository : str or Path
        Folder of all models; `<name>/config.pbtxt`, `<name>/<version>/model.onnx` and
        `<name>/warmup/golden` are written to it. Other versions of the model are left alone.
    name : str, optional
        Of the model; by default the file's name without its ending.
    version : int >= 1, default 1
        Triton serves the highest one.
    max_batch : int >= 1, default 8
        Images scored at once; requests are gathered up to it.
    max_queue_delay : float >= 0, default 0.002
        Seconds that a request waits for others at most.
    instances : int >= 1, default 1
        Copies of the model, on each GPU or on the CPU.
    kind : {"auto", "cpu", "gpu"}, default "auto"
        Where they run; `auto` takes the GPUs where there are any.
    gpus : sequence of int, optional
        Which of them; by default all.
    threads : int, optional
        Of onnxruntime inside an operation, for the CPU.
    custom_ops_library : str or Path, optional
        Absolute path that a copy of `robustad.runtime.custom_ops_library()` has on the server, for
        a file that was exported with `custom_ops`.

    Returns
    -------
    Path
        The model's folder.

    Raises
    ------
    InputError
        If an option is out of range, the file is missing or a tensor has a type that Triton does
        not know.
    StateError
        If the file was changed since it was exported, or is no export of robustad's.

    Notes
    -----
    The warm-up runs the golden image, at batch 1 and at the largest batch. The overridable
    calibration is left at the file's own; verdicts are made by the client, from `probability` and
    the thresholds, which are repeated among the model's parameters. The layout follows Triton's
    documentation of model repositories and of `ModelConfig`; no Triton server takes part in
    writing it.
    """
    import onnx

    path, repository = check_file(path), Path(repository)
    name = path.stem if name is None else name
    if not NAME.fullmatch(name):
        raise InputError(f"name: expected letters, digits, '_', '-' and '.', got {name!r}")
    for option, value in (("version", version), ("max_batch", max_batch), ("instances", instances)):
        if value < 1:
            raise InputError(f"{option}: expected >= 1, got {value}")
    if not max_queue_delay >= 0:
        raise InputError(f"max_queue_delay: expected seconds >= 0, got {max_queue_delay}")
    if kind not in KINDS:
        raise InputError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if gpus is not None and (kind == "cpu" or not gpus or min(gpus) < 0):
        raise InputError(f"gpus: expected numbers of GPUs, and not kind='cpu', got {list(gpus)}")
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected >= 1, got {threads}")
    check_integrity(path)
    model = onnx.load(str(path), load_external_data=False)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    metadata = _metadata.parse(properties, str(path))
    operations = _operations(model, custom_ops_library)
    defaults = {initializer.name for initializer in model.graph.initializer}
    inputs = [_tensor(value) for value in model.graph.input if value.name not in defaults]
    outputs = [_tensor(value) for value in model.graph.output]
    golden = _golden(metadata, inputs[0], str(path))
    config = _text(
        {
            "name": name,
            "backend": "onnxruntime",
            "default_model_filename": "model.onnx",
            "max_batch_size": max_batch,
            "input": [_entry(tensor) for tensor in inputs],
            "output": [_entry(tensor) for tensor in outputs],
            "instance_group": [_group(instances, kind, gpus)],
            "dynamic_batching": {"max_queue_delay_microseconds": round(max_queue_delay * 1e6)},
            "version_policy": {"latest": {"num_versions": 1}},
            "model_warmup": [_warmup(inputs[0], golden, size) for size in sorted({1, max_batch})],
            "parameters": _parameters(metadata, threads),
            **operations,
        }
    )
    folder = repository / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{repository}: expected a folder, got a file") from error
    _place(path, model, folder / str(version))
    (folder / "warmup").mkdir(exist_ok=True)
    (folder / "warmup" / WARMUP).write_bytes(golden.tobytes())
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    return folder


class Enum(str):
    """A word that is written without quotes."""

    __slots__ = ()


def _operations(model: onnx.ModelProto, library: str | Path | None) -> dict[str, Any]:
    """Where Triton finds the operators that a file needs beside onnxruntime's."""
    needed = any(entry.domain == DOMAIN for entry in model.opset_import)
    if needed and (library is None or not Path(library).is_absolute()):
        raise InputError(
            "custom_ops_library: the file uses robustad's operators; expected the absolute path "
            f"that their library has on the server, got {library}"
        )
    if library is not None and not needed:
        raise InputError(f"custom_ops_library: the file uses none of it, got {library}")
    return {"model_operations": {"op_library_filename": [str(library)]}} if needed else {}


def _tensor(value: onnx.ValueInfoProto) -> tuple[str, str, list[int]]:
    """Name, Triton's type, and sizes after the batch, -1 where they are free."""
    kind = value.type.tensor_type
    if kind.elem_type not in TYPES:
        raise InputError(f"{value.name}: ONNX element type {kind.elem_type} is unknown to Triton")
    sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
    return value.name, TYPES[kind.elem_type], sizes[1:]


def _entry(tensor: tuple[str, str, list[int]]) -> dict[str, Any]:
    name, datatype, sizes = tensor
    if sizes:
        return {"name": name, "data_type": Enum(datatype), "dims": sizes}
    # a value an image: Triton wants at least one size, and drops it again
    entry = {"name": name, "data_type": Enum(datatype), "dims": [1]}
    return {**entry, "reshape": {"shape": []}}


def _golden(
    metadata: dict[str, Any], tensor: tuple[str, str, list[int]], path: str
) -> np.ndarray[Any, np.dtype[Any]]:
    """Golden image as the file's input takes it, without the batch."""
    image = read_golden(metadata, path)[0][0]
    name, datatype, sizes = tensor
    if datatype not in DTYPES or len(sizes) != 3:
        raise InputError(f"{name}: expected an image as input, got {datatype} of {sizes}")
    if sizes[0] != 3:  # channels last
        image = image.transpose(1, 2, 0)
    if datatype == "TYPE_UINT8":
        image = np.rint(image * 255)
    return np.ascontiguousarray(image.astype(DTYPES[datatype]))


def _group(instances: int, kind: Kind, gpus: Sequence[int] | None) -> dict[str, Any]:
    group: dict[str, Any] = {"count": instances, "kind": Enum(f"KIND_{kind.upper()}")}
    if gpus is not None:
        group |= {"kind": Enum("KIND_GPU"), "gpus": list(gpus)}
    return group


def _warmup(
    tensor: tuple[str, str, list[int]], golden: np.ndarray[Any, np.dtype[Any]], size: int
) -> dict[str, Any]:
    name, datatype, _ = tensor
    value = {
        "data_type": Enum(datatype),
        "dims": list(golden.shape),
        "input_data_file": WARMUP,
    }
    return {
        "name": f"golden, batch {size}",
        "batch_size": size,
        "inputs": {"key": name, "value": value},
    }


def _parameters(metadata: dict[str, Any], threads: int | None) -> list[dict[str, Any]]:
    policy = metadata["policy"]
    values = {
        "robustad_threshold": policy["threshold"],
        "robustad_entropy_threshold": policy["entropy_threshold"],
        "robustad_tensors_sha256": metadata.get("tensors_sha256"),
        "intra_op_thread_count": threads,
    }
    return [
        {"key": key, "value": {"string_value": str(value)}}
        for key, value in values.items()
        if value is not None
    ]


def _place(path: Path, model: onnx.ModelProto, folder: Path) -> None:
    """Copy the file and its tensors under the names that the file refers to."""
    data = {
        entry.value
        for initializer in model.graph.initializer
        for entry in initializer.external_data
        if entry.key == "location"
    }
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        aside.chmod(0o755)
        shutil.copyfile(path, aside / "model.onnx")
        for name in sorted(data):
            shutil.copyfile(path.with_name(name), aside / name)
        if folder.exists():
            shutil.rmtree(folder)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _text(message: dict[str, Any], indent: str = "") -> str:
    """Write nested dicts and lists as protobuf text."""
    lines: list[str] = []
    for key, value in message.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key} {{", *_inner(value, indent), f"{indent}}}"]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for one in value:
                lines += [f"{indent}{key} {{", *_inner(one, indent), f"{indent}}}"]
        else:
            lines.append(f"{indent}{key}: {_scalar(value)}")
    return "\n".join(lines) + "\n"


def _inner(message: dict[str, Any], indent: str) -> list[str]:
    text = _text(message, indent + "  ").rstrip("\n")
    return [text] if text else []


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_scalar(one) for one in value)}]"
    if isinstance(value, Enum):
        return str(value)
    return json.dumps(value, ensure_ascii=True) if isinstance(value, str) else str(value)
