"""What every benchmark's JSON carries besides its times: versions, threads, items a second."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # for patch_features
PACKAGES = (
    "robustad",
    "torch",
    "numpy",
    "scikit-learn",
    "scipy",
    "faiss-cpu",
    "onnxruntime",
    "openvino",
    "torchmetrics",
    "anomalib",
)


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    import torch

    machine_info["versions"] = {package: installed(package) for package in PACKAGES}
    machine_info["threads"] = {
        "torch": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "cores": os.cpu_count(),
    }
    machine_info["torch_cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    if torch.cuda.is_available():
        machine_info["gpu"] = torch.cuda.get_device_name()


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    for one in output_json["benchmarks"]:
        info = one["extra_info"]
        for quantity in ("items", "flops", "bytes"):
            if quantity in info:
                info[f"{quantity}_per_s"] = info[quantity] / one["stats"]["median"]
