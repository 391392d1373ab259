"""The fastest file for a machine that still scores as the detector does, on the user's images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from robustad.detectors import Detector
from robustad.errors import InputError, VerificationError
from robustad.export.candidates import TARGETS, Candidate, Search, TargetName, check_target
from robustad.export.metadata import ArtefactMetadata, TargetRecord
from robustad.export.onnx import export_onnx, onnx_name, replaced
from robustad.export.parity import plain, write_parity
from robustad.runtime._metadata import KEY

if TYPE_CHECKING:
    from robustad.export.banks import BankPrecision
    from robustad.export.metadata import InputForm
    from robustad.images import Images


@dataclass(frozen=True, kw_only=True)
class TargetReport:
    """What `export_fastest` tried, and what it chose.

    Attributes
    ----------
    path : str
        The file.
    target, engine : str
        What it is for, and what runs it.
    providers : list of str
        What ran the candidates, the preferred one first.
    chosen : Candidate
        The file's own.
    candidates : list of Candidate
        All that were tried.
    max_score_error : float
        The bound, for scores of up to `score_scale` = 1; else a multiple of that.
    max_map_error : float or None
        The bound of patch scores and maps, likewise.
    score_scale : float
        The largest score in magnitude, at least 1.
    images, calibration_images : int
        Compared; and of these, those that ranges were measured on.
    batch_size : int
        Images at once when timed.
    threads : int or None
        Of both engines; None for their own choice.
    eager_milliseconds : float
        An image, of the detector in torch.
    """

    path: str
    target: str
    engine: str
    providers: list[str]
    chosen: Candidate
    candidates: list[Candidate]
    max_score_error: float
    max_map_error: float | None
    score_scale: float
    images: int
    calibration_images: int
    batch_size: int
    threads: int | None
    eager_milliseconds: float

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: `chosen` by name; None for what is infinite or not timed."""
        candidates = [
            {
                **asdict(one),
                "float32_blocks": list(one.float32_blocks),
                "parity": plain(one.parity),
                "milliseconds": None if one.refused else one.milliseconds,
            }
            for one in self.candidates
        ]
        return {**asdict(self), "chosen": self.chosen.name, "candidates": candidates}


def export_fastest(
    detector: Detector,
    path: str | Path,
    *,
    target: TargetName,
    images: Images,
    max_score_error: float = 1e-3,
    max_map_error: float | None = None,
    image_size: tuple[int, int] | None = None,
    dynamic_size: bool | None = None,
    input: InputForm = "uint8_nhwc",
    opset: int = 20,
    bank: BankPrecision = "float32",
    custom_ops: bool = False,
    batch_size: int = 1,
    threads: int | None = None,
    progress: Callable[[str], object] = lambda said: None,
) -> TargetReport:
    """Export a detector in the fastest precision that scores your images as the detector does.

    The backbone is tried in lower precisions; everything behind it stays float32. A candidate is
    refused if the score of any of the images differs by more than `max_score_error` from the
    detector's in torch. The others are timed here, on the engine of the target.

    Parameters
    ----------
    detector : Detector
        Fitted; it is not changed.
    path : str or Path
        File name, ending in `.onnx`; a manifest and `.parity.json` are written beside it. Earlier
        files are replaced together, or stay as they were.
    target : {"cpu", "cuda", "tensorrt", "openvino"}
        onnxruntime with one of its providers, or OpenVINO on the CPU. It has to be there.
    images : path, folder, PIL image, array, tensor, or an iterable of these
        At least two, of what the detector will see, defects included; a few dozen are enough. They
        are kept in memory. Ranges of int8 are measured on every second one, all are compared.
    max_score_error : float >= 0, default 1e-3
        Absolute, or relative to the largest score where that exceeds 1, as logits do.
    max_map_error : float >= 0, optional
        The same for patch scores and maps; by default they are reported only.
    image_size, dynamic_size, input, opset, bank, custom_ops
        See `export_onnx`.
    batch_size : int >= 1, default 1
        Images at once when candidates are timed.
    threads : int, optional
        See `robustad.runtime.load`; torch gets as many for the comparison.
    progress : callable, optional
        Called with a line of text before each step.

    Returns
    -------
    TargetReport
        Every candidate with its errors, time and size, and which was chosen.

    Raises
    ------
    InputError
        If an option is out of range, there are fewer than two images or one cannot be read, or the
        detector cannot be exported.
    MissingDependencyError
        If the engine or provider of the target is not installed or does not start.
    VerificationError
        If no candidate is near enough; names the best one. Nothing is written then.

    Notes
    -----
    Int8 weights have 7 bits, as 8 overflow on CPUs without VNNI, wherever the file was made; a CPU
    with VNNI tries 8 as well if 7 are refused. `robustad.runtime.load` picks the engine that the
    file was made for. A CPU's choice is best made on the kind of CPU that will run it.

    Examples
    --------
    >>> import tempfile, numpy as np, robustad
    >>> from robustad.export import export_fastest
    >>> pixels = np.random.default_rng(0).random((3, 48, 48, 3))
    >>> detector = robustad.AnomalyDINO("filters", image_size=48).fit(pixels)
    >>> path = tempfile.mkdtemp() + "/part.onnx"
    >>> report = export_fastest(detector, path, target="cpu", images=pixels, threads=1)
    >>> report.chosen.parity.score_error <= 1e-3
    True
    """
    path = onnx_name(path)
    for name, value in (("max_score_error", max_score_error), ("max_map_error", max_map_error)):
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"{name}: expected a number >= 0, got {value}")
    if batch_size < 1:
        raise InputError(f"batch_size: expected >= 1, got {batch_size}")
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected >= 1, got {threads}")
    check_target(target, custom_ops=custom_ops)
    with replaced(path) as aside:
        progress("tracing")
        export_onnx(
            detector,
            aside,
            image_size=image_size,
            dynamic_size=dynamic_size,
            input=input,
            opset=opset,
            bank=bank,
            custom_ops=custom_ops,
        )
        search = Search(
            detector, aside, target, images, max_score_error, max_map_error, threads, progress
        )
        search.run()
        if not any(one.refused is None for one in search.tried):
            best = min(search.tried, key=lambda one: one.parity.score_error)
            raise VerificationError(
                f"{path}: no precision is near enough to the detector for target {target}; the "
                f"best, {best.name}, was refused: {best.refused}; nothing was written"
            )
        progress("timing")
        providers, eager = search.timed(batch_size)
        report = TargetReport(
            path=str(path),
            target=target,
            engine=TARGETS[target].engine,
            providers=providers,
            chosen=search.chosen(),
            candidates=search.tried,
            max_score_error=max_score_error,
            max_map_error=max_map_error,
            score_scale=search.reference.score_scale,
            images=len(search.reference.images),
            calibration_images=len(search.calibration),
            batch_size=batch_size,
            threads=threads,
            eager_milliseconds=eager,
        )
        _finish(search, report, aside)
        write_parity(aside, target=report.to_dict())
    return report


def _finish(search: Search, report: TargetReport, aside: Path) -> None:
    """Make the chosen candidate the file, and have it say what it is."""
    chosen = report.chosen
    candidate, golden = search.file_of(chosen)
    model = onnx.load(candidate, load_external_data=False)
    [entry] = [one for one in model.metadata_props if one.key == KEY]
    metadata = ArtefactMetadata.model_validate_json(entry.value)
    metadata.golden.outputs = dict(golden)
    metadata.target = TargetRecord(
        engine=TARGETS[search.name].engine,
        target=search.name,
        precision=chosen.precision,
        weight_bits=chosen.weight_bits,
        float32_blocks=list(chosen.float32_blocks),
        max_score_error=report.max_score_error,
        score_error=chosen.parity.score_error,
        map_error=max(chosen.parity.patch_error, chosen.parity.map_error),
        images=report.images,
    )
    entry.value = metadata.model_dump_json()
    onnx.save(model, aside)
    search.open(aside).check_golden()
