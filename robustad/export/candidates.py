"""Candidates for a target: one detector in several precisions, compared and timed where it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import onnx

from robustad._imports import require
from robustad.detectors import Detector
from robustad.errors import InputError, MissingDependencyError
from robustad.export import precision
from robustad.export.backbone import PRODUCTS, blocks, quantisable, read_model
from robustad.export.float16 import to_float16
from robustad.export.onnx import data_file
from robustad.export.parity import Parity, Reference, own_golden
from robustad.export.verification import prepared_inputs
from robustad.runtime import OnnxDetector, load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robustad.images import Images

TargetName: TypeAlias = Literal["cpu", "cuda", "tensorrt", "openvino"]
Precision: TypeAlias = Literal["float32", "float16", "int8", "int8_dynamic"]
# Numbers of blocks left in float32, those first that help most, until the gate holds.
LADDER = (1, 2, 3, 5, 8)
# Images that sensitivity is measured on at most.
SENSITIVITY_IMAGES = 8
# Candidates within this share of the fastest time count as equally fast: the most exact is taken.
SAME_SPEED = 0.03


@dataclass(frozen=True)
class Target:
    """What runs the files of a target, and which precisions are worth trying there."""

    engine: Literal["onnxruntime", "openvino"]
    providers: tuple[str, ...]
    needs: str
    precisions: tuple[Precision, ...]
    rounded_results: bool = True  # see `robustad.export.precision.to_int8`


TARGETS: dict[TargetName, Target] = {
    "cpu": Target("onnxruntime", ("cpu",), "CPUExecutionProvider", ("int8", "int8_dynamic")),
    "cuda": Target("onnxruntime", ("cuda",), "CUDAExecutionProvider", ("float16",)),
    "tensorrt": Target(
        "onnxruntime", ("tensorrt", "cuda"), "TensorrtExecutionProvider", ("float16",)
    ),
    "openvino": Target("openvino", ("cpu",), "", ("int8",), False),
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file that was tried.

    Attributes
    ----------
    name : str
        Short, for tables.
    precision : {"float32", "float16", "int8", "int8_dynamic"}
        Of the backbone.
    weight_bits : {7, 8} or None
        Of int8.
    float32_blocks : tuple of str
        Blocks of the backbone left in float32.
    parity : Parity
        How far it is from the detector.
    size : int
        Bytes, `.data` included.
    refused : str or None
        Why it may not be used; None if it may.
    milliseconds : float
        An image, median; NaN before it is measured, and of what was refused.
    """

    name: str
    precision: Precision
    weight_bits: Literal[7, 8] | None = None
    float32_blocks: tuple[str, ...] = ()
    parity: Parity
    size: int
    refused: str | None
    milliseconds: float = math.nan


class Search:
    """The candidates of one export, as files beside the float32 one.

    Parameters
    ----------
    detector : Detector
        The detector; it is not changed.
    aside : Path
        Its float32 file. Candidates are written beside it.
    name : {"cpu", "cuda", "tensorrt", "openvino"}
        The target.
    images, max_score_error, max_map_error, threads, progress
        See `robustad.export.export_fastest`.

    Attributes
    ----------
    tried : list of Candidate
        In the order tried.
    reference : Reference
        The detector's own outputs.
    calibration : list of array
        Images that ranges are measured on.
    """

    def __init__(
        self,
        detector: Detector,
        aside: Path,
        name: TargetName,
        images: Images,
        max_score_error: float,
        max_map_error: float | None,
        threads: int | None,
        progress: Callable[[str], object],
    ) -> None:
        self._aside, self.name, self._target = aside, name, TARGETS[name]
        self._threads, self._progress = threads, progress
        self._bounds = max_score_error, max_map_error
        self.tried: list[Candidate] = []
        self._files: dict[str, Path] = {}
        self._golden: dict[str, dict[str, float]] = {}
        plain_file = load(
            aside, engine="onnxruntime", providers=["cpu"], threads=threads, integrity="skip"
        )
        progress("scoring the images in torch")
        prepared = list(prepared_inputs(detector, plain_file, images))
        if len(prepared) < 2:
            raise InputError(
                "images: expected at least 2, as every second one measures ranges and all are "
                f"compared, got {len(prepared)}"
            )
        self.reference = Reference(detector, prepared)
        self.calibration = self.reference.images[::2]
        self._model = read_model(aside)
        self._blocks = list(blocks(self._model))

    def run(self) -> None:
        """Try everything worth trying here."""
        self._try("float32", "float32", None)
        wanted = self._target.precisions
        if not self._blocks:
            return  # no network: the filter bank, for instance
        if "float16" in wanted:
            self._try("float16", "float16", to_float16(self._model))
        if "int8" in wanted:
            self._int8()
        products = any(n.op_type in PRODUCTS for n in quantisable(self._model))
        if "int8_dynamic" in wanted and products:
            model = precision.to_int8_dynamic(self._model)
            self._try("int8, dynamic", "int8_dynamic", model, bits=7)

    def _int8(self) -> None:
        self._progress("measuring ranges")
        ranges = precision.activation_ranges(
            self._model, self.calibration, self._aside.parent, threads=self._threads
        )
        full: list[tuple[Candidate, precision.RangeKind]] = []
        for bits in precision.weight_bits():
            for kind in precision.KINDS:
                name = f"int8, {kind}" + ("" if bits == 7 else ", 8-bit weights")
                model = self._int8_model(getattr(ranges, kind), bits)
                full.append((self._try(name, "int8", model, bits=bits), kind))
            if any(one.refused is None for one, _ in full):
                return
        best, kind = min(full, key=lambda entry: entry[0].parity.score_error)
        bits = best.weight_bits or 7
        chosen = getattr(ranges, kind)
        order = self._worst_first(chosen, bits)
        for count in LADDER:
            if count >= len(order):
                return
            left = tuple(order[:count])
            model = self._int8_model(chosen, bits, left)
            name = f"{best.name}, {count} of {len(order)} blocks float32"
            if self._try(name, "int8", model, bits=bits, left=left).refused is None:
                return

    def _int8_model(
        self,
        ranges: Mapping[str, precision.Range],
        bits: Literal[7, 8],
        left: Sequence[str] = (),
    ) -> onnx.ModelProto:
        rounded = self._target.rounded_results
        return precision.to_int8(
            self._model, ranges, float_blocks=left, weight_bits=bits, rounded_results=rounded
        )

    def _worst_first(self, ranges: Mapping[str, precision.Range], bits: Literal[7, 8]) -> list[str]:
        """Blocks by the error in score that remains if each alone is left in float32."""
        remaining = {}
        path = self._aside.with_name("without.onnx")
        for block in self._blocks:
            self._progress(f"int8 without {block}")
            onnx.save(self._int8_model(ranges, bits, [block]), path)
            error = self.reference.spread(self.open(path), SENSITIVITY_IMAGES)
            remaining[block] = math.inf if math.isnan(error) else error
        return sorted(remaining, key=lambda block: remaining[block])

    def _try(
        self,
        name: str,
        kind: Precision,
        model: onnx.ModelProto | None,
        *,
        bits: Literal[7, 8] | None = None,
        left: Sequence[str] = (),
    ) -> Candidate:
        self._progress(name)
        path = self._aside
        if model is not None:
            path = self._aside.with_name(f"candidate_{len(self.tried)}.onnx")
            onnx.save(model, path)
        file = self.open(path)
        parity, golden = self.reference.compare(file), own_golden(file)
        data = data_file(self._aside)
        candidate = Candidate(
            name=name,
            precision=kind,
            weight_bits=bits,
            float32_blocks=tuple(left),
            parity=parity,
            size=path.stat().st_size + (data.stat().st_size if data.exists() else 0),
            refused=self._refusal(parity, golden),
        )
        self.tried.append(candidate)
        self._files[name], self._golden[name] = path, golden
        return candidate

    def timed(self, batch_size: int) -> tuple[list[str], float]:
        """Time the candidates that may be used; see `Reference.times`.

        Returns
        -------
        providers : list of str
            What ran them.
        float
            Milliseconds an image of the detector in torch.
        """
        allowed = [one.name for one in self.tried if one.refused is None]
        files = {name: self.open(self._files[name]) for name in allowed}
        found, eager = self.reference.times(files, batch_size=batch_size, threads=self._threads)
        self.tried = [
            replace(one, milliseconds=found.get(one.name, math.nan)) for one in self.tried
        ]
        return next(iter(files.values())).providers, eager

    def chosen(self) -> Candidate:
        """The fastest that was not refused; of those about as fast, the most exact."""
        allowed = [one for one in self.tried if one.refused is None]
        fastest = min(one.milliseconds for one in allowed)
        near = [one for one in allowed if one.milliseconds <= fastest * (1 + SAME_SPEED)]
        return min(near, key=lambda one: one.parity.score_error)

    def file_of(self, candidate: Candidate) -> tuple[Path, Mapping[str, float]]:
        """Where a candidate was written, and its own golden outputs."""
        return self._files[candidate.name], self._golden[candidate.name]

    def _refusal(self, parity: Parity, golden: Mapping[str, float]) -> str | None:
        scale, (score, pixels) = self.reference.score_scale, self._bounds
        if not parity.score_error <= score * scale:
            return f"score differs by {parity.score_error:.2e}, allowed {score * scale:.2e}"
        found = max(parity.patch_error, parity.map_error)
        if pixels is not None and not found <= pixels * scale:
            return f"map or patch score differs by {found:.2e}, allowed {pixels * scale:.2e}"
        if not np.isfinite([*golden.values(), found]).all():
            return "an output is not finite"
        return None

    def open(self, path: Path) -> OnnxDetector:
        """Open a file where the target runs it, or say that this is not possible here."""
        needs = self._target.needs
        file = load(
            path,
            engine=self._target.engine,
            providers=self._target.providers,
            threads=self._threads,
            integrity="skip",
        )
        if needs and file.providers[0] != needs:
            raise MissingDependencyError(
                f"target {self.name}: {needs} is installed but did not start; running on "
                f"{file.providers[0]} would measure something else"
            )
        return file


def check_target(name: str, *, custom_ops: bool) -> None:
    """Raise unless the target is known and its engine is installed.

    Raises
    ------
    InputError
        If the name is unknown, or OpenVINO would need robustad's own operators.
    MissingDependencyError
        If the engine, or the provider of onnxruntime, is not installed.
    """
    if name not in TARGETS:
        raise InputError(f"target: expected one of {', '.join(TARGETS)}, got {name!r}")
    target = TARGETS[name]
    if target.engine == "openvino":
        require("openvino", extra="openvino", purpose="exporting for the target openvino")
        if custom_ops:
            raise InputError("custom_ops: expected False with target openvino, got True")
    ort = require("onnxruntime", extra="cpu", purpose="exporting for a target")
    present = ort.get_available_providers()
    if target.needs and target.needs not in present:
        raise MissingDependencyError(
            f"target {name} needs onnxruntime with {target.needs}, the installed one has "
            f"{', '.join(present)}; choose on a machine that has it (pip install 'robustad[gpu]')"
        )
