"""An exported detector, whichever engine runs it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustad.conformal.scores import ConformalScores, evidence
from robustad.errors import InputError, StateError
from robustad.prediction import Prediction
from robustad.probability import interval_of
from robustad.runtime import _metadata, _verdicts
from robustad.runtime._inputs import Inputs
from robustad.runtime._judgement import FROM_PROBABILITY, SOURCES, judged, pixel_probability
from robustad.runtime._overrides import Calibration, calibration_state, held_out_scores
from robustad.runtime._session import Session
from robustad.runtime.batches import batches, byte_batches, stack
from robustad.runtime.golden import golden_outputs, largest_difference, read_golden
from robustad.verdict import Evidence, binary_entropy

if TYPE_CHECKING:
    from robustad.images import Images

FloatArray = npt.NDArray[np.float32]


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
        session: Session,
        metadata: dict[str, Any],
        *,
        name: str,
    ) -> None:
        if session.inputs != [_metadata.INPUT] or set(_metadata.OLD_OUTPUTS) - set(session.outputs):
            raise StateError(
                f"{name}: expected the input 'image' and the outputs "
                f"{', '.join(_metadata.OLD_OUTPUTS)}, got {session.inputs} and {session.outputs}"
            )
        self._session = session
        self._name = name
        self._calibration: dict[str, Any] | None = None
        self.outputs = tuple(
            name
            for name in (*_metadata.OUTPUTS, *_metadata.OPTIONAL_OUTPUTS)
            if name in session.outputs
        )
        self.metadata = metadata
        self.geometry = _metadata.geometry(metadata)
        self._inputs = Inputs(metadata, self.geometry, name)
        self.pixel_threshold = _metadata.pixel_threshold(metadata)
        self.policy = self._own_policy = _metadata.policy(metadata)
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
        self._calibration = None if value is None else calibration_state(value)

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
    def input_form(self) -> str:
        """What `run` takes: `float_nchw`, prepared images, or `uint8_nhwc`, images of any size."""
        return self._inputs.form

    @property
    def engine(self) -> str:
        """What runs the file: `onnxruntime` or `openvino`."""
        return self._session.engine

    @property
    def providers(self) -> list[str]:
        """Execution providers of onnxruntime in use, the preferred one first; or `OpenVINO:CPU`."""
        return list(self._session.providers)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the only size of prepared images; None if there are many."""
        return self._inputs.image_size

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch grid of a prepared image."""
        patch = self.metadata["patch_size"]
        return height // patch, width // patch

    def run(
        self, x: npt.NDArray[Any], outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Compute outputs for images in the form that the file takes.

        Parameters
        ----------
        x : array, (B, 3, H, W), float32 in [0, 1], or (B, H, W, 3), uint8
            RGB. With `input_form` `float_nchw` resized and cropped as by `geometry`; with
            `uint8_nhwc` of any size, and maps have this size then.
        outputs : sequence of str, optional
            Those wanted, by default all but the map of probabilities: onnxruntime leaves out what
            only the others need.

        Returns
        -------
        dict of array, float32 but for verdicts
            `score` (B,), `probability` (B,) and `entropy` (B,) (NaN if not calibrated),
            `patch_scores` (B, N), `anomaly_map` (B, H, W) and, unless an older version wrote the
            file, `p_value` (B,) (NaN without held-out scores) and `verdict` (B,), int64: the
            place of the verdict in `Verdict`, under the policy, calibration and held-out scores
            in use; `probability_map` (B, H, W) if the file has a pixel calibration and it is
            asked for.

        Raises
        ------
        InputError
            If shape, type or range of `x` does not fit the file, or an output is unknown.
        """
        self._inputs.check(x)
        if outputs is None:
            outputs = [name for name in self.outputs if name not in _metadata.OPTIONAL_OUTPUTS]
        if not outputs or not set(outputs) <= set(self.outputs):
            raise InputError(
                f"outputs: expected some of {', '.join(self.outputs)}, got {list(outputs)}"
            )
        feeds = {_metadata.INPUT: np.ascontiguousarray(x)}
        made = self._made_here(outputs)
        asked = list(dict.fromkeys(SOURCES[name] if name in made else name for name in outputs))
        if self._session.judges:
            feeds |= self._overrides(outputs)
        found = dict(zip(asked, self._session.run(asked, feeds), strict=True))
        if made:
            found |= judged(
                made,
                found,
                calibration=self._used_calibration(),
                pixels=self.metadata.get("pixel_calibration"),
                conformal=self._conformal,
                policy=self.policy,
            )
        return {name: found[name] for name in outputs}

    def _made_here(self, outputs: Sequence[str]) -> list[str]:
        """Outputs that the engine is not asked for, but what they follow from."""
        if not self._session.judges:
            return [name for name in outputs if name in SOURCES]
        # The graph's curve has a fixed form; another one is computed here, from the score.
        own = self._calibration is not None
        return [name for name in outputs if own and name in FROM_PROBABILITY]

    def _overrides(self, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """What the graph is given in place of the file's own held-out scores and policy."""
        feeds: dict[str, npt.NDArray[Any]] = {}
        if self._replaced and "p_value" in self.outputs:
            feeds |= held_out_scores(self._conformal, anomalous=_verdicts.OUTPUT in self.outputs)
        if _verdicts.OUTPUT in outputs and self.policy != self._own_policy:
            feeds |= _verdicts.policy_numbers(self.policy)
        return feeds

    def patch_scores(self, x: npt.NDArray[Any]) -> FloatArray:
        """Patch scores (B, N) of images as `run` takes them."""
        return self.run(x, ["patch_scores"])["patch_scores"]

    def score(self, x: npt.NDArray[Any]) -> FloatArray:
        """Image scores (B,) of images as `run` takes them."""
        return self.run(x, ["score"])["score"]

    def predict(self, images: Images, *, batch_size: int = 8) -> Prediction:
        """Score images of any sizes and say what to make of them.

        Parameters
        ----------
        images : path, folder, PIL image, array, or an iterable of these
            See `robustad.images.iter_images`.
        batch_size : int >= 1, default 8
            Images of equal prepared size scored at once; of equal size with the input form
            `uint8_nhwc`, where very large ones are scored one by one.

        Returns
        -------
        Prediction
            With one entry an image, in the order given; the same as the detector's own.

        Raises
        ------
        InputError
            If an image cannot be read or there is none, or the file takes one size only and an
            image has another aspect ratio.

        Warns
        -----
        UserWarning
            If the file takes uint8 and an image has more than 8 bits a channel: it is rounded.
        """
        names: list[str] = []
        scores: list[FloatArray] = []
        probabilities: list[FloatArray] = []
        grids: list[FloatArray] = []
        maps: list[FloatArray] = []
        whole = self.input_form == _metadata.BYTES
        gathered = batches(images, self.geometry, batch_size)
        for batch in byte_batches(images, batch_size) if whole else gathered:
            x = stack(batch)
            size = self._inputs.prepared_size(x)
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
                if not whole:
                    smooth = self.geometry.restore(smooth, image.height, image.width)
                maps.append(smooth)
        if not names:
            raise InputError("images: expected at least one image, got none")
        score = np.concatenate(scores)
        # p-values and entropies in float64, as the policy judges them, not the graph's float32 ones
        known = self._evidence(score, np.concatenate(probabilities))
        pixel, used = self.metadata.get("pixel_calibration"), self._used_calibration()
        # of the restored map, as the detector does it
        pixels = None if pixel is None else [pixel_probability(pixel, one) for one in maps]
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
            probability_map=pixels,
            probability_interval=None if used is None else interval_of(used, score),
        )

    def _evidence(self, score: FloatArray, probability: FloatArray) -> Evidence:
        return evidence(score, probability.astype(np.float64), self.conformal)

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
        return largest_difference(found, expected, tolerance, self._name)
