import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def module():
    if os.environ.get("ROBUSTAD_CUDA") == "0":
        pytest.skip("ROBUSTAD_CUDA=0: not built")
    if not shutil.which("nvcc") and importlib.util.find_spec("robustad._C_cuda") is None:
        pytest.skip("no nvcc: not built")
    # where there is an nvcc, a build that failed must not go unnoticed
    return importlib.import_module("robustad._C_cuda")


def cuobjdump():
    if shutil.which("cuobjdump"):
        return shutil.which("cuobjdump")
    spec = importlib.util.find_spec("triton")
    folder = Path(spec.origin).parent / "backends" / "nvidia" / "bin" if spec else ROOT
    if not (folder / "cuobjdump").is_file():
        pytest.skip("no cuobjdump, neither of CUDA nor of triton")
    return str(folder / "cuobjdump")


def test_it_loads_without_a_driver(module):
    assert module.device_count() == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_kernels_keep_everything_in_registers(module):
    command = [cuobjdump(), "--dump-resource-usage", module.__file__]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for architecture in ("sm_80", "sm_90"):
        assert f"arch = {architecture}" in report
    usage = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", report)
    kernels = [one for one in usage if "topk" in one[0]]
    # 3 dtypes, 2 architectures; forward for short and for long rows, and backward
    assert len(kernels) == 18
    for name, registers, stack, shared, local in kernels:
        assert (int(stack), int(local)) == (0, 0), name
        assert int(registers) <= 64, name  # 1024 threads must fit 65536 registers
        assert int(shared) <= 36 * 1024, name


def test_it_holds_code_for_later_gpus(module):
    command = [cuobjdump(), "--list-ptx", module.__file__]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "sm_90" in listed


def ask_setup(**environment):
    clean = {key: v for key, v in os.environ.items() if key not in ("CUDA_HOME", "ROBUSTAD_CUDA")}
    command = [sys.executable, "setup.py", "--name"]
    return subprocess.run(
        command, cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, check=False
    )


def test_building_without_nvcc(tmp_path):
    (tmp_path / "empty").mkdir()
    nowhere = str(tmp_path / "empty")
    assert ask_setup(PATH=nowhere).returncode == 0
    assert ask_setup(PATH=nowhere, ROBUSTAD_CUDA="0").returncode == 0
    asked = ask_setup(PATH=nowhere, ROBUSTAD_CUDA="1")
    assert asked.returncode != 0
    assert "ROBUSTAD_CUDA=1: found no nvcc; set CUDA_HOME, or ROBUSTAD_CUDA=0" in asked.stderr


def test_building_with_an_unknown_wish():
    asked = ask_setup(ROBUSTAD_CUDA="yes")
    assert asked.returncode != 0
    assert "ROBUSTAD_CUDA: expected 0, 1 or nothing, got 'yes'" in asked.stderr
