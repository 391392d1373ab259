import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
COMPILER = shutil.which("g++") or shutil.which("c++")


@pytest.mark.skipif(COMPILER is None or not CSRC.is_dir(), reason="needs a compiler and the source")
def test_the_optimiser_leaves_the_tile_configuration_alone(tmp_path):
    # the sanitizers' own reads would keep what it must not drop
    program = tmp_path / "amx"
    source = CSRC / "tests" / "test_cosine_nn_amx.cpp"
    flags = ["-std=c++17", "-O2", "-Wno-psabi", f"-I{CSRC}"]
    subprocess.run([COMPILER, *flags, source, "-o", program], check=True)
    assert subprocess.check_output([program], text=True) == "amx: tiles configured\n"
