"""Nearest bank vector of each query in onnxruntime: standard operators, robustad's own, and torch.

The queries are one image of 448 pixels. Sessions and packed banks are made outside the timing; the
most memory that a program takes which only loads and runs the file is measured in one of its own.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustad.errors import MissingDependencyError
from robustad.export.anomaly_dino import ChunkedNeighbours
from robustad.export.custom_ops import SearchedNeighbours
from robustad.export.translations import translation_table
from robustad.ops import PackedBank, cosine_nn
from robustad.runtime import custom_ops_library

DIM, QUERIES = 384, 1024
CHECKED = 256  # queries compared with a float64 search
BANKS = [
    10_000,
    pytest.param(50_000, marks=pytest.mark.slow),
    pytest.param(200_000, marks=pytest.mark.slow),
]
Array = npt.NDArray[np.float32]
Search = Callable[[Tensor], Array]
# Loads and runs a file twice, and tells the most memory held: at all, and besides the packages.
PROGRAM = """
import re, sys
from pathlib import Path
import numpy as np, onnxruntime as ort
status = Path("/proc/self/status")
held = lambda field: 1024 * int(re.search(rf"{field}:\\s*(\\d+)", status.read_text())[1])
before = held("VmRSS")
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
if sys.argv[2]:
    options.register_custom_ops_library(sys.argv[2])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shape = (1, int(sys.argv[4]), int(sys.argv[5]))
queries = np.random.default_rng(0).standard_normal(shape, np.float32)
for _ in range(2):
    session.run(None, {"features": queries})
print(held("VmHWM"), held("VmHWM") - before)
"""


def features(rows: int, seed: int) -> Tensor:
    """Vectors of a low inner dimension, as patch features are, and some noise."""
    basis = torch.randn(24, DIM, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, 24, generator=generator)
    return latent @ basis + 0.3 * torch.randn(rows, DIM, generator=generator)


def library() -> str:
    try:
        return str(custom_ops_library())
    except MissingDependencyError as error:
        pytest.skip(str(error))


class Bank:
    """A bank, the files that search it, and the distances of some queries in float64."""

    def __init__(self, size: int, folder: Path) -> None:
        self.size, self.folder = size, folder
        self.unit = F.normalize(features(size, 1))
        self.queries = features(QUERIES, 0)
        wide = F.normalize(self.queries[:CHECKED].double())
        self.nearest = np.concatenate(
            [(1 - part @ self.unit.double().T).amin(dim=1).numpy() for part in wide.split(64)]
        )

    def file(self, custom: bool) -> Path:
        path = self.folder / f"{self.size}-{'custom' if custom else 'portable'}.onnx"
        if not path.exists():
            module: nn.Module = ChunkedNeighbours(self.unit, 1)
            if custom:
                module = SearchedNeighbours(module)
            free = ({1: torch.export.Dim("patches", min=2)},)
            example = (self.queries[None, :64],)
            program = torch.onnx.export(
                torch.export.export(module, example, dynamic_shapes=free),
                dynamo=True,
                verbose=False,
                opset_version=20,
                input_names=["features"],
                dynamic_shapes=free,
                custom_translation_table=translation_table(custom_ops=custom),
            )
            assert program is not None
            program.save(path)
        return path


def by_session(bank: Bank, custom: bool) -> Search:
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if custom:
        options.register_custom_ops_library(library())
    path = str(bank.file(custom))
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def search(queries: Tensor) -> Array:
        [distances] = session.run(None, {"features": queries.numpy()[None]})
        found: Array = distances[0, :, 0]
        return found

    return search


def by_torch(bank: Bank) -> Search:
    packed = PackedBank.of_unit(bank.unit)

    def search(queries: Tensor) -> Array:
        found: Array = cosine_nn(queries, packed)[0][:, 0].numpy()
        return found

    return search


IMPLEMENTATIONS: dict[str, Callable[[Bank], Search]] = {
    "robustad": lambda bank: by_session(bank, custom=True),
    "portable graph": lambda bank: by_session(bank, custom=False),
    "robustad in torch": by_torch,
}


@pytest.fixture(scope="module", params=BANKS, ids=lambda size: f"{QUERIES}x{size}x{DIM}")
def bank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return Bank(request.param, tmp_path_factory.mktemp("files"))


def peak_memory(bank: Bank, custom: bool) -> tuple[int, int]:
    """Most bytes of a process that runs the file, and without what it had before loading it."""
    sizes = (torch.get_num_threads(), QUERIES, DIM)
    arguments = [bank.file(custom), library() if custom else "", *sizes]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, added = map(int, out.split())
    return peak, added


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_nearest_in_onnxruntime(benchmark: Any, impl: str, bank: Bank) -> None:
    benchmark.group = f"nearest in onnxruntime, {QUERIES} x {bank.size} x {DIM}"
    search = IMPLEMENTATIONS[impl](bank)
    found = benchmark.pedantic(search, (bank.queries,), rounds=7, warmup_rounds=1)
    error = float(np.abs(found[:CHECKED] - bank.nearest).max())
    assert error <= 2e-6
    benchmark.extra_info.update(
        items=QUERIES,
        flops=2 * QUERIES * bank.size * DIM,
        device="cpu",
        dtype="float32",
        largest_error=error,
    )
    if impl != "robustad in torch" and Path("/proc/self/status").exists():
        peak, added = peak_memory(bank, impl == "robustad")
        benchmark.extra_info.update(peak_memory=peak, added_memory=added)
