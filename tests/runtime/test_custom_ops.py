"""The operators in onnxruntime; csrc/tests/test_cosine_nearest.cpp has them in a made-up host."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import robustad.runtime._custom_ops as module
from robustad import _C, runtime
from robustad.errors import MissingDependencyError, StateError
from robustad.ops import PackedBank, cosine_nn

CSRC = Path(__file__).resolve().parents[2] / "csrc"
# The least that the runtime takes for a file of robustad's.
DOCUMENT = {
    "schema_version": 3,
    "geometry": {"size": 48, "multiple": 8, "square": False},
    "input": {"height": None, "width": None},
    "patch_size": 8,
    "calibration": None,
    "policy": {"threshold": 0.5, "entropy_threshold": None},
}


@pytest.fixture(scope="module", autouse=True)
def library():
    try:
        return runtime.custom_ops_library()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def rows(count, dim, seed, spread=1.0):
    """Vectors about one direction, which `spread` makes much or little of."""
    rng = np.random.default_rng(seed)
    centre = np.random.default_rng(99).standard_normal(dim)
    noise = rng.standard_normal((count, dim))
    return ((1 - spread) * centre + spread * noise).astype(np.float32)


def unit_rows(*arguments):
    found = rows(*arguments)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def graph(bank, k=None, *, constant=True, indices=True, opset=1):
    """A model of the operator alone."""
    names = ["distances", "indices"][: 1 + indices]
    node = helper.make_node("CosineNearest", ["features", "bank"], names, domain="robustad", k=k)
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, None)]
    if not constant:
        inputs.append(helper.make_tensor_value_info("bank", TensorProto.FLOAT, None))
    kinds = (TensorProto.FLOAT, TensorProto.INT64)
    model = helper.make_model(
        helper.make_graph(
            [node],
            "one",
            inputs,
            [
                helper.make_tensor_value_info(*value, None)
                for value in zip(names, kinds, strict=False)
            ],
            [numpy_helper.from_array(bank, "bank")] if constant else [],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("robustad", opset)],
        ir_version=10,
    )
    entry = model.metadata_props.add()
    entry.key, entry.value = "robustad", json.dumps(DOCUMENT)
    return model.SerializeToString()


def session(model, threads=1):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(runtime.custom_ops_library()))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def assert_exact(features, bank, k, distances, indices):
    """Compare with all distances in float64."""
    wide = features.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    exact = 1 - np.divide(wide, length, out=np.zeros_like(wide), where=length > 0) @ bank.T.astype(
        np.float64
    )
    nearest = np.sort(exact, axis=1)[:, :k]
    assert distances.dtype == np.float32
    assert indices.dtype == np.int64
    assert distances.shape == indices.shape == (len(features), k)
    np.testing.assert_allclose(distances, nearest.clip(0, 2), rtol=0, atol=2e-6)
    assert (np.take_along_axis(exact, indices, axis=1) - nearest).max(initial=0) <= 1e-6
    assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("count", "size", "dim", "k"),
    [
        *((1, 1, 1, 1), (7, 33, 5, 1), (40, 100, 37, 3), (1, 5000, 384, 1), (300, 700, 100, 16)),
        pytest.param(64, 20_000, 384, 2, id="a large bank"),
    ],
)
def test_the_same_numbers_as_the_torch_operator(count, size, dim, k, threads):
    features, bank = rows(count, dim, 1), unit_rows(size, dim, 2)
    distances, indices = session(graph(bank, k), threads).run(None, {"features": features})
    assert_exact(features, bank, k, distances, indices)
    packed = PackedBank.of_unit(torch.from_numpy(bank))
    expected = cosine_nn(torch.from_numpy(features), packed, k)
    np.testing.assert_array_equal(distances, expected[0].numpy())
    np.testing.assert_array_equal(indices, expected[1].numpy())


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 20),
    size=st.integers(1, 80),
    dim=st.integers(1, 70),
    k=st.integers(1, 5),
    spread=st.sampled_from([1.0, 1e-3, 0.0]),  # 0: nothing but ties
    seed=st.integers(0, 100),
)
def test_any_shape_near_duplicates_and_ties(count, size, dim, k, spread, seed):
    k = min(k, size)
    features, bank = rows(count, dim, seed, spread), unit_rows(size, dim, seed + 1, spread)
    found = session(graph(bank, k)).run(None, {"features": features})
    assert_exact(features, bank, k, *found)
    if spread == 0:  # of equal ones the lower row first
        assert (found[1] == np.arange(k)).all()


@pytest.mark.parametrize("path", _C.cosine_nn_paths())
def test_every_instruction_set(path, monkeypatch):
    monkeypatch.setenv("ROBUSTAD_COSINE_NN", path)
    features, bank = rows(50, 70, 1), unit_rows(400, 70, 2)
    found = session(graph(bank, 2)).run(None, {"features": features})
    monkeypatch.delenv("ROBUSTAD_COSINE_NN")  # it counts when the session is made
    assert_exact(features, bank, 2, *found)


def test_vectors_of_zeros_tiny_huge_and_not_finite():
    features, bank = rows(6, 40, 1), unit_rows(64, 40, 2)
    bank[3] = 0
    features[0] = 0
    features[1] *= 1e-30
    features[2] *= 1e30
    features[3, 5] = np.nan
    features[4, 5] = np.inf
    distances, indices = session(graph(bank, 2)).run(None, {"features": features})
    assert np.isnan(distances[3:5]).all()
    assert ((indices >= 0) & (indices < 64)).all()
    kept = [0, 1, 2, 5]
    assert_exact(features[kept], bank, 2, distances[kept], indices[kept])


def test_one_neighbour_is_the_default_and_rows_need_not_be_wanted():
    features, bank = rows(9, 20, 1), unit_rows(50, 20, 2)
    both = session(graph(bank)).run(None, {"features": features})
    assert_exact(features, bank, 1, *both)
    [alone] = session(graph(bank, indices=False)).run(None, {"features": features})
    np.testing.assert_array_equal(alone, both[0])


def test_a_bank_that_the_graph_is_given():
    features, one, other = rows(9, 20, 1), unit_rows(50, 20, 2), unit_rows(80, 20, 3)
    model = session(graph(one, 2, constant=False))
    for bank in (one, other, one):  # nothing is kept of an earlier one
        assert_exact(features, bank, 2, *model.run(None, {"features": features, "bank": bank}))


@pytest.mark.parametrize(
    ("bank", "k", "message"),
    [
        (np.eye(4), 0, r"robustad.CosineNearest: k: expected 1..4 \(the bank's rows\), got 0"),
        (np.eye(4), 5, r"k: expected 1..4 \(the bank's rows\), got 5"),
        (np.ones(4), 1, r"bank: expected a shape \(N, D\), neither of them 0, got \(4\)"),
        (np.ones((0, 4)), 1, r"got \(0, 4\)"),
        (
            2 * np.eye(4),
            1,
            "bank: expected rows of length 1 or 0, got one of length 2.000000 at row 0",
        ),
        (np.full((1, 4), np.nan), 1, "got one of length -?nan at row 0"),
    ],
)
def test_banks_that_do_not_fit(bank, k, message):
    with pytest.raises(Exception, match=message):
        session(graph(bank.astype(np.float32), k))


def test_features_that_do_not_fit():
    model = session(graph(unit_rows(50, 20, 2)))
    for shape, written in (
        ((3, 21), r"\(3, 21\)"),
        ((20,), r"\(20\)"),
        ((1, 3, 20), r"\(1, 3, 20\)"),
    ):
        with pytest.raises(
            Exception, match=rf"features: expected a shape \(M, 20\), got {written}"
        ):
            model.run(None, {"features": np.zeros(shape, np.float32)})


def test_an_unknown_instruction_set(monkeypatch):
    monkeypatch.setenv("ROBUSTAD_COSINE_NN", "abacus")
    with pytest.raises(Exception, match=r"ROBUSTAD_COSINE_NN: expected a path .*, got 'abacus'"):
        session(graph(unit_rows(5, 4, 2)))


def test_sessions_and_threads_side_by_side():
    features, banks = rows(200, 48, 1), [unit_rows(2000, 48, 2), unit_rows(900, 48, 3)]
    models = [session(graph(bank, 2), threads=2) for bank in banks]
    alone = [model.run(None, {"features": features}) for model in models]

    def run(turn):
        return turn % 2, models[turn % 2].run(None, {"features": features})

    with ThreadPoolExecutor(4) as pool:
        for which, found in pool.map(run, range(40)):
            for one, other in zip(found, alone[which], strict=True):
                np.testing.assert_array_equal(one, other)


# The library and its registration


def test_the_library_needs_neither_python_nor_openmp(library):
    if shutil.which("ldd") is None:
        pytest.skip("no ldd to ask")
    needed = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    assert not {word for word in ("python", "torch", "gomp", "onnxruntime") if word in needed}


def test_the_search_runs_without_torch(library):
    code = (
        "import sys, onnxruntime as ort; from robustad import runtime; o = ort.SessionOptions(); "
        "o.register_custom_ops_library(str(runtime.custom_ops_library())); "
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-P", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_library_that_was_not_built(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "LIBRARY", "_nothing")
    with pytest.raises(MissingDependencyError, match="ROBUSTAD_ORT_OPS=1"):
        runtime.custom_ops_library()
    path = tmp_path / "one.onnx"
    path.write_bytes(graph(unit_rows(5, 4, 2)))
    with pytest.raises(
        MissingDependencyError,
        match=r"one.onnx: robustad's operators for onnxruntime were not built",
    ):
        runtime.load(path)


def test_a_library_that_does_not_load(monkeypatch, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(module, "custom_ops_library", lambda: broken)
    path = tmp_path / "one.onnx"
    path.write_bytes(graph(unit_rows(5, 4, 2)))
    with pytest.raises(
        StateError, match=r"broken.so: cannot be loaded by onnxruntime: .*broken.so"
    ):
        runtime.load(path)


def test_newer_operators(tmp_path):
    path = tmp_path / "newer.onnx"
    path.write_bytes(graph(unit_rows(5, 4, 2), opset=2))
    with pytest.raises(StateError, match=r"newer.onnx: uses version 2 .* has version 1: upgrade"):
        runtime.load(path)


def test_building_with_an_unknown_wish():
    if not (CSRC.parent / "setup.py").is_file():
        pytest.skip("needs the source")
    command = [sys.executable, "setup.py", "--name"]
    asked = subprocess.run(
        command,
        cwd=CSRC.parent,
        env={**os.environ, "ROBUSTAD_ORT_OPS": "yes"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode != 0
    assert "ROBUSTAD_ORT_OPS: expected 0, 1 or nothing, got 'yes'" in asked.stderr


def test_the_declared_interface_is_onnxruntimes(tmp_path):
    """With the header of an onnxruntime release: ROBUSTAD_ORT_INCLUDE names its folder."""
    folder, compiler = os.environ.get("ROBUSTAD_ORT_INCLUDE"), shutil.which("g++")
    if not folder or compiler is None or not CSRC.is_dir():
        pytest.skip("needs ROBUSTAD_ORT_INCLUDE, g++ and the source")
    source = CSRC / "tests" / "onnxruntime_abi.cpp"
    flags = ["-std=c++17", "-fsyntax-only", "-Wno-ignored-attributes", f"-I{folder}"]
    subprocess.run([compiler, *flags, source], check=True)
