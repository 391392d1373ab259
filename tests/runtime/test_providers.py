"""Execution providers: those asked for, those there, those that fail."""

import warnings

import numpy as np
import pytest

from robustad import runtime
from robustad.errors import InputError


def test_providers_and_threads(exported):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runtime.load(exported.path, providers=["cpu"]).providers == ["CPUExecutionProvider"]
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.warns(UserWarning, match=r"CUDAExecutionProvider is not part of .*on the CPU"):
            model = runtime.load(exported.path, providers=["cuda"], threads=1)
        assert model.providers == ["CPUExecutionProvider"]
    with pytest.raises(InputError, match=r"providers: expected names of .*cuda.*, got 'gpu'"):
        runtime.load(exported.path, providers=["gpu"])
    with pytest.raises(InputError, match="expected a list of names, got the string 'cuda'"):
        runtime.load(exported.path, providers="cuda")
    with pytest.raises(InputError, match="threads: expected >= 1, got 0"):
        runtime.load(exported.path, threads=0)


def test_a_provider_that_does_not_start_is_told(exported, monkeypatch):
    """A GPU build on a machine without a driver lists the provider, and falls back by itself."""
    import onnxruntime

    plain = onnxruntime.InferenceSession
    asked = []

    def session(path, options, providers):
        asked.append(providers)
        return plain(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    present = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: present)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider is installed but did not start"):
        runtime.load(exported.path, providers=["CUDAExecutionProvider"], threads=1)
    assert asked == [[("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]]


def test_cuda_is_taken_where_it_is_and_nothing_else(exported, monkeypatch):
    import onnxruntime

    plain, asked = onnxruntime.InferenceSession, []

    def session(path, options, providers):
        asked.append([name for name, _ in providers])
        return plain(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider is installed but did not start; r"):
        runtime.load(exported.path, threads=1)
    assert asked == [names[1:]]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime.load(exported.path, threads=1)


def test_a_provider_that_raises_is_replaced(exported, monkeypatch):
    import onnxruntime

    plain = onnxruntime.InferenceSession

    def session(path, options, providers):
        if len(providers) > 1:
            raise RuntimeError("libnvinfer.so.10: cannot open\nmore")
        return plain(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    present = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: present)
    message = r"TensorrtExecutionProvider could not run model.onnx \(libnvinfer.* on the CPU"
    with pytest.warns(UserWarning, match=message) as told:
        model = runtime.load(exported.path, providers=["tensorrt"], threads=1)
    assert len(told) == 1
    assert model.check_golden() < 1e-5


def test_options_reach_their_provider(exported, monkeypatch):
    import onnxruntime

    plain, asked = onnxruntime.InferenceSession, []

    def session(path, options, providers):
        asked.append((dict(providers), options))
        return plain(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    given = {"cpu": {"arena_extend_strategy": "kSameAsRequested"}}
    runtime.load(exported.path, threads=2, spinning=False, provider_options=given)
    [(providers, options)] = asked
    assert providers["CPUExecutionProvider"] == given["cpu"]
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(InputError, match=r"provider_options: expected names of .*, got 'gpu'"):
        runtime.load(exported.path, provider_options={"gpu": {}})
    with pytest.raises(InputError, match=r"provider_options: expected a mapping .* for cpu, got 3"):
        runtime.load(exported.path, provider_options={"cpu": 3})


def test_bound_inputs_and_outputs_are_the_same(exported, model, mixed):
    """On the CPU the same code runs as on a GPU, with buffers of its own."""
    bound = runtime.load(exported.path, threads=1, io_binding=True)
    for batch_size in (1, 4):  # buffers are filled again, and made anew when the shape changes
        found, expected = (m.predict(mixed, batch_size=batch_size) for m in (bound, model))
        np.testing.assert_array_equal(found.score, expected.score)
        np.testing.assert_array_equal(found.probability, expected.probability)
        for one, other in zip(found.anomaly_map, expected.anomaly_map, strict=True):
            np.testing.assert_array_equal(one, other)
    bound.calibration = (8.0, -2.0)
    expected = 1 / (1 + np.exp(2.0 - 8.0 * model.predict(mixed).score))
    np.testing.assert_allclose(bound.predict(mixed).probability, expected, atol=1e-6)
    x = np.zeros((2, 3, 48, 48), np.float32)
    assert list(bound.run(x, ["anomaly_map", "score"])) == ["anomaly_map", "score"]
    assert bound.run(x, ["anomaly_map", "score"])["score"].shape == (2,)
