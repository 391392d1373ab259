"""A whole detector by torch eager, onnxruntime and OpenVINO, side by side, with one thread each.

ResNet-18 with random weights: what an engine takes does not depend on them. All three compute in
float32 and have to give the same.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch

from robustad import runtime
from robustad.detectors import AnomalyDINO
from robustad.export import export_onnx

ENGINES = ("torch eager", "onnxruntime", "openvino")
SIZE = (224, 256)
# Prepared sizes of photographs of many shapes, as a mixed folder has them.
SIZES = ((224, 256), (224, 288), (224, 320), (256, 224), (224, 224), (224, 336), (304, 224))


class Exported(NamedTuple):
    detector: AnomalyDINO
    path: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (2, 240, 280, 3), dtype=np.uint8)
    detector = AnomalyDINO("resnet18", "random", image_size=224).fit(list(images)).eval()
    path = tmp_path_factory.mktemp("engines") / "resnet18.onnx"
    return Exported(detector, export_onnx(detector, path, input="float_nchw"))


class Scorer:
    """Scores, patch scores and map of prepared images by one engine."""

    def __init__(self, exported: Exported, engine: Any) -> None:
        self._detector = exported.detector
        self._model = None
        if engine != "torch eager":
            if engine == "openvino":
                pytest.importorskip("openvino")
            self._model = runtime.load(exported.path, engine=engine, threads=1)

    def __call__(self, x: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        if self._model is not None:
            found = self._model.run(x, ["score", "patch_scores", "anomaly_map"])
            return list(found.values())
        with torch.inference_mode():
            patches = self._detector.patch_scores(torch.from_numpy(x))
            made = (
                self._detector.aggregate(patches),
                patches,
                self._detector.anomaly_map(patches, (x.shape[2], x.shape[3])),
            )
        return [one.numpy() for one in made]


def largest_error(
    exported: Exported, x: npt.NDArray[np.float32], found: list[npt.NDArray[Any]]
) -> float:
    expected = Scorer(exported, "torch eager")(x)
    errors = [float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True)]
    assert max(errors) <= 1e-5
    return max(errors)


def batch_of(count: int, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    return np.random.default_rng(count).random((count, 3, *size), np.float32)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("batch", [1, 4, 8])
@pytest.mark.parametrize("engine", ENGINES)
def test_engine(benchmark: Any, engine: str, batch: int, exported: Exported) -> None:
    benchmark.group = f"ResNet-18 detector, {batch} x {SIZE[0]} x {SIZE[1]}, one thread"
    scorer, x = Scorer(exported, engine), batch_of(batch, SIZE)
    found = benchmark.pedantic(scorer, (x,), rounds=7, warmup_rounds=1)
    benchmark.extra_info.update(
        items=batch,
        device="cpu",
        dtype="float32",
        largest_error=largest_error(exported, x, found),
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_sizes_in_turn(benchmark: Any, engine: str, exported: Exported) -> None:
    """No two neighbours of one size: an engine that compiles for a shape would show it."""
    benchmark.group = f"ResNet-18 detector, {len(SIZES)} images of other sizes each, one thread"
    scorer, images = Scorer(exported, engine), [batch_of(1, size) for size in SIZES]

    def all_of_them() -> list[list[npt.NDArray[Any]]]:
        return [scorer(x) for x in images]

    found = benchmark.pedantic(all_of_them, rounds=5, warmup_rounds=1)
    errors = [largest_error(exported, x, one) for x, one in zip(images, found, strict=True)]
    benchmark.extra_info.update(
        items=len(SIZES), device="cpu", dtype="float32", largest_error=max(errors)
    )
