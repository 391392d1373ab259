"""An exported detector, run by onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from robustad.conformal.scores import ConformalScores, evidence
from robustad.errors import InputError, StateError, VerificationError
from robustad.prediction import Prediction
from robustad.probability import check_state, interval_of, linear, probability_of
from robustad.runtime import _metadata
from robustad.runtime._binding import Binding
from robustad.runtime._session import check_file, device_of, open_session
from robustad.runtime.batches import batches, stack
from robustad.runtime.golden import golden_outputs, read_golden
from robustad.runtime.integrity import Integrity, check_integrity
from robustad.verdict import Policy, binary_entropy

if TYPE_CHECKING:
    from robustad.images import Images

FloatArray = npt.NDArray[np.float32]
FROM_SCORE = ("probability", "entropy")
# Slope and intercept, a calibrator's saved state, or anything that gives one by `to_dict`.
Calibration: TypeAlias = "tuple[float, float] | Mapping[str, Any] | HasState"


class HasState(Protocol):
    """A calibrator, as far as the runtime needs one."""

    def to_dict(self) -> dict[str, Any]:
        """With `method` and its parameters."""
        ...


def load(
    path: str | Path,
    *,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    spinning: bool = True,
    provider_options: Mapping[str, Mapping[str, str]] | None = None,
    io_binding: bool | None = None,
    calibration: Calibration | None = None,
    conformal: ConformalScores | None = None,
    policy: Policy | None = None,
    integrity: Integrity = "auto",
    sha256: str | None = None,
) -> OnnxDetector:
    """Load a file written by `robustad.export_onnx`.

    Parameters
    ----------
    path : str or Path
        The `.onnx` file; a bank of over 2 GB lies in `.onnx.data` beside it.
    providers : sequence of str, optional
        onnxruntime's execution providers in order of preference, `CUDAExecutionProvider` or
        `cuda` for short. By default CUDA where the installed onnxruntime has it, else the CPU.
        One that is missing or does not start is replaced by the CPU, with a warning.
    threads : int, optional
        Threads inside an operation; by default as many as there are cores.
    spinning : bool, default True
        Whether threads wait busily for their next operation: lower latency, but an idle model
        then slows down other programs on the same cores for a while.
    provider_options : mapping, optional
        onnxruntime's options by provider, for instance `{"cuda": {"device_id": "1"}}`.
    io_binding : bool, optional
        Keep inputs and outputs in buffers on the device; by default where CUDA runs.
    calibration : (float, float), mapping or calibrator, optional
        To use in place of the file's own: slope and intercept, for probability =
        sigmoid(slope * score + intercept); what a calibrator's `to_dict` gave, of any method,
        whatever the file was exported with; or such a calibrator.
    conformal : ConformalScores, optional
        Held-out scores to use in place of the file's own, for instance of images taken on this
        line. The policy stays: `conformal.policy(detector.policy, fpr=...)` gives one that fits.
    policy : Policy, optional
        To use in place of the file's own.
    integrity : {"auto", "require", "skip"}, default "auto"
        Compare the file and its `.data` with the SHA-256 manifest beside it: where there is one,
        always (a file without is refused), or never.
    sha256 : str, optional
        SHA-256 that the manifest itself must have, known from a place that nobody who can write
        to this folder can change. Implies `integrity="require"`.

    Returns
    -------
    OnnxDetector
        Ready to predict. It needs neither torch nor the `onnx` package.

    Raises
    ------
    InputError
        If there is no such file or an option is out of range.
    StateError
        If the file is truncated, no ONNX, of an operator set that does not fit, not exported by
        robustad or by a newer version, or differs from its manifest.
    MissingDependencyError
        If onnxruntime is not installed.

    Warns
    -----
    UserWarning
        If a provider that was asked for is not there.
    """
    check_integrity(check_file(path), integrity, sha256=sha256)
    session = open_session(
        path, providers, threads, spinning=spinning, provider_options=provider_options
    )
    metadata = _metadata.parse(session.get_modelmeta().custom_metadata_map, str(path))
    detector = OnnxDetector(session, metadata, name=str(path), io_binding=io_binding)
    if calibration is not None:
        detector.calibration = calibration
    if conformal is not None:
        detector.conformal = conformal
    if policy is not None:
        detector.policy = policy
    return detector


class OnnxDetector:
    """Scores images with an exported file; see `load`.

    Attributes
    ----------
    metadata : dict
        The file's description of itself; see `docs/artefact.schema.json`.
    geometry : Geometry
        How images are resized and cropped.
    outputs : tuple of str
        What the file computes.
    pixel_threshold : RiskThreshold or None
        From which map value on a pixel is marked; can be replaced.
    policy : Policy
        Maps probabilities, p-values and what else is known to verdicts; can be replaced.
    """

    def __init__(
        self,
        session: Any,
        metadata: dict[str, Any],
        *,
        name: str,
        io_binding: bool | None = None,
    ) -> None:
        inputs = [value.name for value in session.get_inputs()]
        outputs = [value.name for value in session.get_outputs()]
        if inputs != [_metadata.INPUT] or set(_metadata.OLD_OUTPUTS) - set(outputs):
            raise StateError(
                f"{name}: expected the input 'image' and the outputs "
                f"{', '.join(_metadata.OLD_OUTPUTS)}, got {inputs} and {outputs}"
            )
        self._session = session
        device = device_of(session)
        bound = device[0] != "cpu" if io_binding is None else io_binding
        self._binding = Binding(session, *device) if bound else None
        self._name = name
        self._calibration: dict[str, Any] | None = None
        self.outputs = tuple(
            name for name in (*_metadata.OUTPUTS, *_metadata.OPTIONAL_OUTPUTS) if name in outputs
        )
        self.metadata = metadata
        self.geometry = _metadata.geometry(metadata)
        self.pixel_threshold = _metadata.pixel_threshold(metadata)
        self.policy = _metadata.policy(metadata)
        self._conformal = _metadata.conformal(metadata)
        self._replaced = False

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What overrides the file's own calibration, as a calibrator's state; None for nothing.

        Can be set to whatever `load` takes.

        Raises
        ------
        InputError
            If a pair set is not two finite numbers.
        StateError
            If a state set is not that of a calibrator.
        """
        return self._calibration

    @calibration.setter
    def calibration(self, value: Calibration | None) -> None:
        if value is None or isinstance(value, Mapping):
            self._calibration = None if value is None else check_state(value)
        elif (state := getattr(value, "to_dict", None)) is not None:
            self._calibration = check_state(state())
        else:
            try:
                pair = np.asarray(value, np.float64)
            except (TypeError, ValueError):
                pair = np.empty(0)
            if pair.shape != (2,) or not np.isfinite(pair).all():
                raise InputError(
                    "calibration: expected two finite numbers, a calibrator or its state, got "
                    f"{value!r}"
                )
            slope, intercept = pair.tolist()
            self._calibration = {"method": "platt", "slope": slope, "intercept": intercept}

    @property
    def conformal(self) -> ConformalScores | None:
        """Held-out scores that p-values are counted among: the file's own, or those put here."""
        return self._conformal

    @conformal.setter
    def conformal(self, value: ConformalScores | None) -> None:
        if value is not None and not isinstance(value, ConformalScores):
            raise InputError(f"conformal: expected ConformalScores or None, got {value!r}")
        self._conformal, self._replaced = value, True

    @property
    def providers(self) -> list[str]:
        """Execution providers in use, the preferred one first."""
        return list(self._session.get_providers())

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the only input size the file takes; None if it takes many."""
        height, width = self.metadata["input"]["height"], self.metadata["input"]["width"]
        return None if height is None or width is None else (height, width)

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch grid of a prepared image."""
        patch = self.metadata["patch_size"]
        return height // patch, width // patch

    def run(self, x: FloatArray, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Compute outputs for prepared images.

        Parameters
        ----------
        x : array, (B, 3, H, W), float32 in [0, 1]
            RGB, resized and cropped as by `geometry`.
        outputs : sequence of str, optional
            Those wanted, by default all but the map of probabilities: onnxruntime leaves out what
            only the others need.

        Returns
        -------
        dict of array, float32
            `score` (B,), `probability` (B,) and `entropy` (B,) (NaN if not calibrated),
            `score` (B,), `probability` (B,) and `entropy` (B,) (NaN if not calibrated),
            `patch_scores` (B, N), `anomaly_map` (B, H, W) and, unless an older version wrote the
            file, `p_value` (B,) (NaN without held-out scores); `probability_map` (B, H, W) if
            the file has a pixel calibration and it is asked for.

        Raises
        ------
        InputError
            If shape, type or range of `x` does not fit the file, or an output is unknown.
        """
        self._check(x)
        own = self._calibration
        if outputs is None:
            outputs = [name for name in self.outputs if name not in _metadata.OPTIONAL_OUTPUTS]
        if not outputs or not set(outputs) <= set(self.outputs):
            raise InputError(
                f"outputs: expected some of {', '.join(self.outputs)}, got {list(outputs)}"
            )
        feeds = {_metadata.INPUT: np.ascontiguousarray(x)}
        if self._replaced and "p_value" in self.outputs:
            held_out = None if self._conformal is None else self._conformal.normal
            nothing = np.array([np.nan], np.float32)
            feeds[_metadata.CONFORMAL] = nothing if held_out is None else held_out
        made = () if own is None else tuple(n for n in FROM_SCORE if n in outputs)
        # The graph's curve has a fixed form; another one is computed here, from the score.
        asked = list(dict.fromkeys("score" if name in made else name for name in outputs))
        runner = self._session if self._binding is None else self._binding
        found = dict(zip(asked, runner.run(asked, feeds), strict=True))
        if own is not None and made:
            probability = probability_of(own, found["score"])
            found["probability"] = probability.astype(np.float32)
            found["entropy"] = binary_entropy(probability).astype(np.float32)
        return {name: found[name] for name in outputs}

    def patch_scores(self, x: FloatArray) -> FloatArray:
        """Patch scores (B, N) of prepared images (B, 3, H, W); see `run`."""
        return self.run(x, ["patch_scores"])["patch_scores"]

    def score(self, x: FloatArray) -> FloatArray:
        """Image scores (B,) of prepared images (B, 3, H, W); see `run`."""
        return self.run(x, ["score"])["score"]

    def predict(self, images: Images, *, batch_size: int = 8) -> Prediction:
        """Score images of any sizes and say what to make of them.

        Parameters
        ----------
        images : path, folder, PIL image, array, or an iterable of these
            See `robustad.images.iter_images`.
        batch_size : int >= 1, default 8
            Images of equal prepared size scored at once.

        Returns
        -------
        Prediction
            With one entry an image, in the order given; the same as the detector's own.

        Raises
        ------
        InputError
            If an image cannot be read or there is none, or the file takes one size only and an
            image has another aspect ratio.
        """
        names: list[str] = []
        scores: list[FloatArray] = []
        probabilities: list[FloatArray] = []
        grids: list[FloatArray] = []
        maps: list[FloatArray] = []
        for batch in batches(images, self.geometry, batch_size):
            x = stack(batch)
            size = (x.shape[2], x.shape[3])
            if self.image_size not in (None, size):
                raise InputError(
                    f"{batch[0].name}: prepared to {size[0]} x {size[1]} pixels, but {self._name} "
                    f"takes {self.image_size} only; export with dynamic_size=True, with this "
                    "image_size, or a detector with square=True"
                )
            out = self.run(x, ("score", "probability", "patch_scores", "anomaly_map"))
            scores.append(out["score"])
            probabilities.append(out["probability"])
            coarse = out["patch_scores"].reshape(-1, *self.patch_grid(*size))
            for i, image in enumerate(batch):
                names.append(image.name)
                grids.append(coarse[i])
                smooth = out["anomaly_map"][i]
                maps.append(self.geometry.restore(smooth, image.height, image.width))
        if not names:
            raise InputError("images: expected at least one image, got none")
        score = np.concatenate(scores)
        # p-values and entropies in float64, as the policy judges them, not the graph's float32 ones
        known = evidence(score, np.concatenate(probabilities).astype(np.float64), self.conformal)
        pixel, used = self.metadata.get("pixel_calibration"), self._used_calibration()
        return Prediction(
            names=names,
            score=score,
            probability=known.probability,
            entropy=binary_entropy(known.probability),
            p_value=known.p_value,
            verdict=self.policy.decide(known),
            patch_scores=grids,
            anomaly_map=maps,
            pixel_threshold=None if self.pixel_threshold is None else self.pixel_threshold.value,
            # of the restored map, as the detector does it
            probability_map=None if pixel is None else [_pixels(pixel, one) for one in maps],
            probability_interval=None if used is None else interval_of(used, score),
        )

    def _used_calibration(self) -> dict[str, Any] | None:
        """State of the calibration in use, the override before the file's."""
        stored: dict[str, Any] | None = self.metadata["calibration"]
        return stored if self._calibration is None else self._calibration

    def warm_up(self, batch_sizes: Sequence[int] = (1,)) -> float:
        """Run the golden input in batches of these sizes: the first run is the slow one.

        Parameters
        ----------
        batch_sizes : sequence of int >= 1, default (1,)
            Those that will occur.

        Returns
        -------
        float
            Seconds that the last batch took: how long one takes from now on.

        Raises
        ------
        InputError
            If there is no batch size, or one is below 1.
        StateError
            If the file holds no golden input that this version knows.
        """
        if not batch_sizes or min(batch_sizes) < 1:
            raise InputError(f"batch_sizes: expected sizes >= 1, got {list(batch_sizes)}")
        x, _ = read_golden(self.metadata, self._name)
        for size in batch_sizes:
            batch = x.repeat(size, axis=0)
            self.run(batch)
        start = time.perf_counter()
        self.run(batch)
        return time.perf_counter() - start

    def check_golden(self, *, tolerance: float = 1e-3) -> float:
        """Run the golden input and compare with the outputs stored at export.

        A quick check on the machine that will use the file: engine, provider, and whether the
        files belong together. It replaces no verification on real images.

        Parameters
        ----------
        tolerance : float, default 1e-3
            Largest difference in score, and in mean and maximum of patch scores and map.

        Returns
        -------
        float
            The largest difference.

        Raises
        ------
        VerificationError
            If it is above `tolerance`; names the output.
        StateError
            If the file holds no golden outputs that this version knows.
        """
        x, expected = read_golden(self.metadata, self._name)
        out = self.run(x)
        found = golden_outputs(out["score"], out["patch_scores"], out["anomaly_map"])
        differences = {name: abs(found[name] - expected[name]) for name in found}
        worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
        if not differences[worst] <= tolerance:
            raise VerificationError(
                f"{self._name}: golden output {worst} is {found[worst]:.6g}, expected "
                f"{expected[worst]:.6g} within {tolerance:g}"
            )
        return float(differences[worst])

    def _check(self, x: FloatArray) -> None:
        if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim != 4 or x.shape[1] != 3:
            got = f"{x.shape} of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
            raise InputError(f"x: expected a float32 array (B, 3, H, W), got {got}")
        batch, _, height, width = x.shape
        multiple = self.geometry.multiple
        if not batch or not height or not width or height % multiple or width % multiple:
            raise InputError(
                f"x: expected at least one image with edges of whole multiples of {multiple} "
                f"pixels, got {x.shape}"
            )
        if self.image_size not in (None, (height, width)):
            raise InputError(f"x: {self._name} takes {self.image_size} pixels only, got {x.shape}")
        low, high = float(x.min()), float(x.max())
        if not (low >= 0.0 and high <= 1.0):  # also refuses NaN
            raise InputError(f"x: expected values in [0, 1], got {low:g}..{high:g}")


def _pixels(state: Mapping[str, Any], anomaly_map: FloatArray) -> FloatArray:
    values = np.asarray(anomaly_map, np.float64)
    made = linear(values, slope=state["slope"], intercept=state["intercept"])
    return made.astype(np.float32)
