"""Bank searches in onnxruntime: one matrix product, chunks, bfloat16, int8, robustad's operator.

The queries are one image of 448 pixels, beside them torch's search of the packed bank. Sessions and
packed banks are made outside the timing. Memory is that of a process of its own which loads the
file and runs four such images: in all, and besides the packages.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from patch_features import DIM, made
from torch import Tensor, nn

from robustad.errors import MissingDependencyError
from robustad.export.anomaly_dino import ChunkedNeighbours
from robustad.export.banks import Bfloat16Neighbours, Int8Neighbours
from robustad.export.custom_ops import SearchedNeighbours
from robustad.export.translations import translation_table
from robustad.ops import PackedBank, cosine_nn
from robustad.runtime import custom_ops_library

QUERIES, BATCH = 1024, 4
Array = npt.NDArray[np.float32]
Search = Callable[[Tensor], Array]
CHECKED = 256  # queries compared with a float64 search
# Prints the most memory that a process held which loads and runs a file twice: in all, and added.
PROGRAM = """
import re, sys
from pathlib import Path
import numpy as np, onnxruntime as ort
status = Path("/proc/self/status")
# not ru_maxrss: a child inherits that of the process that starts it
held = lambda field: 1024 * int(re.search(rf"{field}:\\s*(\\d+)", status.read_text())[1])
before = held("VmRSS")
options = ort.SessionOptions()
options.intra_op_num_threads = 1
if sys.argv[2]:
    options.register_custom_ops_library(sys.argv[2])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shape = tuple(map(int, sys.argv[3:]))
queries = np.random.default_rng(0).standard_normal(shape, np.float32)
for _ in range(2):
    session.run(None, {"features": queries})
print(held("VmHWM"), held("VmHWM") - before)
"""


class Plain(nn.Module):
    """One product with the whole bank, and its maximum."""

    def __init__(self, bank: Tensor, k: int) -> None:
        super().__init__()
        self.register_buffer("bank", bank.T.contiguous())

    def forward(self, features: Tensor) -> Tensor:
        unit = F.normalize(features, dim=2, eps=1e-12)
        similarity = (unit @ self.get_buffer("bank")).amax(dim=2, keepdim=True)
        return (1.0 - similarity).clamp(0.0, 2.0)


def searched(bank: Tensor, k: int) -> nn.Module:
    return SearchedNeighbours(ChunkedNeighbours(bank, k))


MODULES: dict[str, Callable[[Tensor, int], nn.Module]] = {
    "plain float32": Plain,
    "chunked float32": ChunkedNeighbours,
    "bfloat16": Bfloat16Neighbours,
    "int8": Int8Neighbours,
    "operator float32": searched,
}
IN_TORCH = "operator in torch"
IMPLEMENTATIONS = [*MODULES, IN_TORCH]
ALLOWED = {"bfloat16": 2**-9, "int8": 1e-3}


def library(impl: str) -> str:
    if not impl.startswith("operator"):
        return ""
    try:
        return str(custom_ops_library())
    except MissingDependencyError as error:
        pytest.skip(str(error))


class Bank:
    """A bank, its queries, and the distances of some of them in float64."""

    def __init__(self, size: int, folder: Path) -> None:
        self.size, self.folder = size, folder
        self.unit, self.queries = F.normalize(made(size, 1)), made(QUERIES, 0)
        wide = F.normalize(self.queries[:CHECKED].double())
        self.nearest = np.concatenate(
            [(1 - part @ self.unit.double().T).amin(dim=1).numpy() for part in wide.split(64)]
        )

    def file(self, impl: str) -> Path:
        path = self.folder / f"{impl.replace(' ', '_')}.onnx"
        if not path.exists():
            free = ({0: torch.export.Dim("batch", min=1)},)
            example = (torch.stack([self.queries] * 2),)  # a batch of 1 is special in tracing
            program = torch.onnx.export(
                torch.export.export(MODULES[impl](self.unit, 1), example, dynamic_shapes=free),
                dynamo=True,
                verbose=False,
                opset_version=20,
                input_names=["features"],
                dynamic_shapes=free,
                custom_translation_table=translation_table(custom_ops=bool(library(impl))),
            )
            assert program is not None
            program.save(path)
        return path


def by_session(bank: Bank, impl: str) -> Search:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if library(impl):
        options.register_custom_ops_library(library(impl))
    session = ort.InferenceSession(
        str(bank.file(impl)), options, providers=["CPUExecutionProvider"]
    )

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


def peak_memory(bank: Bank, impl: str) -> tuple[int, int]:
    """Most bytes of a process that runs the file, and without what it had before loading it."""
    arguments = [bank.file(impl), library(impl), BATCH, QUERIES, DIM]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, added = map(int, out.split())
    return peak, added


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(
    scope="module",
    params=[10_000, *(pytest.param(size, marks=pytest.mark.slow) for size in (50_000, 200_000))],
    ids=lambda size: f"{QUERIES}x{size}x{DIM}",
)
def bank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return Bank(request.param, tmp_path_factory.mktemp("banks"))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_bank_search(benchmark: Any, impl: str, bank: Bank, one_thread: None) -> None:
    benchmark.group = f"bank search, {QUERIES} x {bank.size} x {DIM}, one thread"
    search = by_torch(bank) if impl == IN_TORCH else by_session(bank, impl)
    found = benchmark.pedantic(search, (bank.queries,), rounds=5, warmup_rounds=1)
    del search
    error = float(np.abs(found[:CHECKED] - bank.nearest).max())
    assert error <= ALLOWED.get(impl, 2e-6)
    benchmark.extra_info.update(
        items=QUERIES,
        flops=2 * QUERIES * bank.size * DIM,
        device="cpu",
        dtype=impl,
        largest_error=error,
    )
    if impl != IN_TORCH and Path("/proc/self/status").exists():
        peak, added = peak_memory(bank, impl)
        if impl != "plain float32":
            assert peak < 10**9
        benchmark.extra_info.update(
            peak_memory=peak, added_memory=added, file_bytes=bank.file(impl).stat().st_size
        )
