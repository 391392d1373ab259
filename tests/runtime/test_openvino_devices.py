"""Devices that OpenVINO is asked for."""

import pytest

from robustad import runtime
from robustad.errors import StateError
from robustad.runtime import _openvino

pytest.importorskip("openvino")


def load(path, **options):
    return runtime.load(path, **{"engine": "openvino", "threads": 1, **options})


class Core:
    """OpenVINO's, with other devices and an ear for what is asked of it."""

    def __init__(self, core, devices=("CPU",), failing=()):
        self._core, self.available_devices, self._failing = core, list(devices), failing
        self.asked = []

    def compile_model(self, model, device, properties):
        self.asked.append((device, properties))
        if device in self._failing:
            raise RuntimeError("Exception from src/x.cpp:1:\nno OpenCL\n")
        return self._core.compile_model(model, "CPU", {})

    def __getattr__(self, name):
        return getattr(self._core, name)


@pytest.fixture
def core(monkeypatch):
    import openvino

    plain = openvino.Core

    def put(**options):
        made = Core(plain(), **options)
        monkeypatch.setattr(openvino, "Core", lambda: made)
        return made

    return put


def test_devices_and_properties(exported, core):
    made = core(devices=["CPU", "GPU.0", "GPU.1"])
    load(exported.path, threads=3)
    load(exported.path, providers=["gpu.1", "cpu"], precision="float16")
    assert load(exported.path, providers=["auto"]).providers == ["OpenVINO:AUTO"]
    assert load(exported.path, providers=["GPU"]).providers == ["OpenVINO:GPU"]
    load(exported.path, provider_options={"openvino": {"PERFORMANCE_HINT": "THROUGHPUT"}})
    common = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    cpu = {**common, "ENABLE_CPU_PINNING": False}
    assert made.asked == [
        ("CPU", {**cpu, "INFERENCE_NUM_THREADS": 3}),
        ("GPU.1", {**common, "INFERENCE_PRECISION_HINT": "f16"}),
        ("AUTO", {**cpu, "INFERENCE_NUM_THREADS": 1}),
        ("GPU", common),
        ("CPU", {**cpu, "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "THROUGHPUT"}),
    ]
    with pytest.warns(UserWarning, match=r"NPU is not among OpenVINO's devices here \(CPU, GPU.0"):
        assert load(exported.path, providers=["npu", "gpu"]).providers == ["OpenVINO:GPU"]


def test_a_device_that_fails_is_replaced(exported, core):
    core(devices=["CPU", "GPU"], failing=["GPU"])
    message = r"device asked for could not run model.onnx with OpenVINO \(no OpenCL\); running on"
    with pytest.warns(UserWarning, match=message) as told:
        model = load(exported.path, providers=["gpu"])
    assert len(told) == 1
    assert model.providers == ["OpenVINO:CPU"]
    assert model.check_golden() < 1e-5
    core(devices=["CPU", "GPU"], failing=["GPU", "CPU"])
    for providers in (["gpu"], None):
        with pytest.raises(
            StateError, match=r"model.onnx: not .* OpenVINO 20.* can run: no OpenCL"
        ):
            load(exported.path, providers=providers)


def test_a_precision_that_the_cpu_lacks_is_told(exported, core):
    core()  # computes in its own, whatever is asked for
    import openvino

    own = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    other = next(one for one in ("bfloat16", "float16") if _openvino.HINTS[one] != own)
    with pytest.warns(UserWarning, match=f"this CPU has no {other}: OpenVINO computes in {own}"):
        load(exported.path, precision=other)
