"""Opening an exported file with OpenVINO, which runs its network and map on the CPU or a device.

OpenVINO computes in float32 what a file says in float64, has no inputs with a default, and drops
the metadata. So only what lies between the prepared image and score, patches and map is given to
it: images are prepared and maps restored as `robustad.geometry` does it, and what follows from
score and map is left to the detector.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad._imports import require
from robustad.errors import InputError, MissingDependencyError, StateError
from robustad.runtime import _metadata
from robustad.runtime._custom_ops import DOMAIN
from robustad.runtime._header import Header

CPU, AUTO = "CPU", "AUTO"
# Older ones drop the attribute `antialias` when they read a file: see `_antialias`.
OLDEST = (2025, 4)
HINT = "INFERENCE_PRECISION_HINT"
# OpenVINO takes operators of a set that it does not know for those of the newest that it knows.
NEWEST_OPSET = 23
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
# Devices beside the CPU that OpenVINO has names for; a second GPU is `gpu.1`.
DEVICES = ("cpu", "gpu", "npu", "auto")
# How lines of its messages begin that do not say what is wrong.
UNTELLING = ("Exception from", "Check ", "FrontEnd API", "Loading input", "Model wasn't")
COMPUTED = ("score", "patch_scores", "anomaly_map")
# What the exporter calls the ends of preparing and restoring in files that take uint8.
PREPARED, PREPARED_MAP = "prepared", "prepared_anomaly_map"


class OpenVINOSession:
    """A file compiled by OpenVINO; see `robustad.runtime._session.Session`. One call at a time.

    Parameters
    ----------
    compiled : openvino.CompiledModel
        From prepared images to `COMPUTED`.
    outputs : list of str
        Of the whole file.
    metadata : dict
        The file's.
    providers : list of str
        What it runs on.
    """

    engine = _metadata.OPENVINO
    judges = False

    def __init__(
        self, compiled: Any, outputs: list[str], metadata: dict[str, Any], providers: list[str]
    ) -> None:
        self.inputs = [_metadata.INPUT]
        self.outputs = outputs
        self.providers = providers
        self._whole = _metadata.input_form(metadata) == _metadata.BYTES
        self._geometry = _metadata.geometry(metadata)
        self._request = compiled.create_infer_request()
        self._lock = Lock()

    def run(self, names: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        """Outputs of these names, of `COMPUTED`, as numpy arrays in this order."""
        x = feeds[_metadata.INPUT]
        height, width = x.shape[1:3]
        if self._whole:
            prepared = [self._geometry.apply(image / np.float32(255)) for image in x]
            x = np.ascontiguousarray(np.stack(prepared).transpose(0, 3, 1, 2))
        with self._lock:
            made = self._request.infer([x], share_inputs=True, share_outputs=True)
            found = {name: np.array(made[COMPUTED.index(name)]) for name in names}
        if self._whole and "anomaly_map" in found:
            maps = [self._geometry.restore(one, height, width) for one in found["anomaly_map"]]
            found["anomaly_map"] = np.stack(maps)
        return [found[name] for name in names]


def open_openvino(
    path: Path,
    header: Header,
    metadata: dict[str, Any],
    providers: Sequence[str] | None,
    threads: int | None,
    *,
    precision: str = "float32",
    provider_options: Mapping[str, Mapping[str, str]] | None = None,
) -> OpenVINOSession:
    """Open a file whose header and metadata are known; see `robustad.runtime.load`."""
    ov = _openvino()
    if DOMAIN in header.opsets:
        raise StateError(
            f"{path}: uses robustad's own operators, which OpenVINO does not have: expected a file "
            "exported without custom_ops, or engine='onnxruntime'"
        )
    if (opset := header.opsets[""]) > NEWEST_OPSET:
        raise StateError(
            f"{path}: written in ONNX operator set {opset}, expected {NEWEST_OPSET} or older for "
            "OpenVINO: export again with an older one (opset=18), or use engine='onnxruntime'"
        )
    core = ov.Core()
    device = _device(core, providers)
    own = _own_properties(core, device, provider_options)
    try:
        model = core.read_model(path)
    except Exception as error:  # none of its classes are documented
        raise _refusal(path, ov, error) from error
    outputs = _between(ov, model, metadata, path)
    try:
        compiled = core.compile_model(model, device, _properties(device, precision, threads) | own)
    except RuntimeError as error:
        if device == CPU:
            raise _refusal(path, ov, error) from error
        compiled = _on_cpu(ov, core, model, _properties(CPU, precision, threads), path, error)
        device = CPU
    used = compiled.get_property(HINT).get_type_name() if device == CPU else HINTS[precision]
    if HINT not in own and used != HINTS[precision]:
        warnings.warn(f"this CPU has no {precision}: OpenVINO computes in {used}", stacklevel=3)
    return OpenVINOSession(compiled, outputs, metadata, [f"OpenVINO:{device}"])


def _openvino() -> Any:
    ov = require("openvino", extra="openvino", purpose="running files with engine='openvino'")
    found = ov.__version__.partition("-")[0]
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        raise MissingDependencyError(
            f"openvino {OLDEST[0]}.{OLDEST[1]} or newer is needed for running files with "
            f"engine='openvino', {found} is installed: pip install -U 'robustad[openvino]'"
        )
    return ov


def _between(ov: Any, model: Any, metadata: Mapping[str, Any], path: Path) -> list[str]:
    """Cut a model down to what OpenVINO computes, in the order of `COMPUTED`.

    Returns
    -------
    list of str
        Outputs of the whole.
    """
    outputs = {name: result for result in model.get_results() for name in _names(result.input(0))}
    whole = _metadata.input_form(metadata) == _metadata.BYTES
    inside = {
        name: one for node in model.get_ops() for one in node.outputs() for name in _names(one)
    }
    wanted = (PREPARED, PREPARED_MAP) if whole else (_metadata.INPUT,)
    there = {*outputs, *(name for name in wanted if name in inside)}
    if missing := [name for name in (*wanted, *COMPUTED) if name not in there]:
        raise StateError(
            f"{path}: expected tensors called {', '.join((*wanted, *COMPUTED))}, found no "
            f"{', '.join(missing)}: not a file of robustad's, or a tool has converted it"
        )
    if whole:
        prepared = inside[PREPARED]
        image = ov.opset13.parameter(prepared.get_partial_shape(), prepared.get_element_type())
        for user in prepared.get_target_inputs():
            user.replace_source_output(image.output(0))
        outputs["anomaly_map"].input(0).replace_source_output(inside[PREPARED_MAP])
        model.add_parameters([image])
    for result in model.get_results():
        model.remove_result(result)
    model.add_results([outputs[name] for name in COMPUTED])
    _antialias(model)
    if whole:
        for parameter in model.get_parameters()[:-1]:
            model.remove_parameter(parameter)
    return list(outputs)


def _antialias(model: Any) -> None:
    """Have position embeddings resized as the file says.

    OpenVINO's CPU reads the attribute `antialias` of a cubic resize, and computes as if it were
    false (openvinotoolkit/openvino issue 35893): a ViT at a size below its own then sees other
    positions. Its mode after Pillow computes what torch, and so the exporter, means: weights
    outside are left out (`exclude_outside`), which at the edges matters.
    """
    for node in model.get_ops():
        if node.get_type_name() != "Interpolate":
            continue
        attributes = node.get_attributes()
        if attributes["mode"] == "cubic" and attributes.get("antialias"):
            node.set_attribute("mode", "bicubic_pillow")
            node.set_attribute("antialias", False)


def _names(value: Any) -> set[str]:
    names: set[str] = value.get_tensor().get_names()
    return names


def _properties(device: str, precision: str, threads: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", HINT: HINTS[precision]}
    if device in (CPU, AUTO):
        # Otherwise the threads of each process on a machine are bound to the same, first cores.
        found["ENABLE_CPU_PINNING"] = False
        if threads is not None:
            found["INFERENCE_NUM_THREADS"] = threads
    return found


def _on_cpu(
    ov: Any, core: Any, model: Any, properties: dict[str, Any], path: Path, first: Exception
) -> Any:
    """Second try, when a device has failed."""
    try:
        compiled = core.compile_model(model, CPU, properties)
    except RuntimeError as error:
        raise _refusal(path, ov, error) from error
    warnings.warn(
        f"the device asked for could not run {path.name} with OpenVINO ({_first_line(first)}); "
        "running on the CPU",
        stacklevel=4,
    )
    return compiled


def _device(core: Any, providers: Sequence[str] | None) -> str:
    """Name of the first device asked for that is there, else the CPU."""
    if isinstance(providers, str):
        raise InputError(f"providers: expected a list of names, got the string {providers!r}")
    present = core.available_devices
    for provider in providers or ():
        name = provider.upper().removesuffix("EXECUTIONPROVIDER")
        kind, _, number = name.partition(".")
        if kind.lower() not in DEVICES or (number and not number.isdecimal()):
            raise InputError(
                f"providers: expected OpenVINO's devices {', '.join(DEVICES)}, gpu.1, ..., got "
                f"{provider!r}"
            )
        if name == AUTO or any(one == name or one.partition(".")[0] == name for one in present):
            return name
        warnings.warn(
            f"{name} is not among OpenVINO's devices here ({', '.join(present)}); running on the "
            "next one asked for, or the CPU",
            stacklevel=4,
        )
    return CPU


def _own_properties(
    core: Any, device: str, given: Mapping[str, Mapping[str, str]] | None
) -> dict[str, str]:
    """Properties given by the caller; those of the CPU are checked before a model is blamed."""
    properties: dict[str, str] = {}
    for name, options in (given or {}).items():
        if name.lower() != _metadata.OPENVINO:
            raise InputError(
                f"provider_options: expected those of 'openvino' with this engine, got {name!r}"
            )
        if not isinstance(options, Mapping):
            raise InputError(
                f"provider_options: expected a mapping of options for {name}, got {options!r}"
            )
        properties |= {str(key): str(value) for key, value in options.items()}
    if device == CPU and properties:
        try:
            core.set_property(CPU, properties)
        except RuntimeError as error:
            raise InputError(f"provider_options: OpenVINO says: {_first_line(error)}") from error
    return properties


def _refusal(path: Path, ov: Any, error: Exception) -> StateError:
    return StateError(
        f"{path}: not an ONNX file that OpenVINO {ov.__version__.partition('-')[0]} can run: "
        f"{_first_line(error)}"
    )


def _first_line(error: Exception) -> str:
    """What an exception of OpenVINO's says, without the places in its sources."""
    lines = [line.strip("- ") for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(UNTELLING)]
    missing = [line for line in told if line.startswith("No conversion rule")]
    return (missing or told or lines or [type(error).__name__])[0]
