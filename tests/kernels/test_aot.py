"""Every kernel variant compiles for sm_80 and sm_90, without a GPU, into what was intended."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from robustad.kernels.aot import ARCHS, SHARED_LIMIT, Report, modules, parse_resources


@pytest.mark.parametrize("module", modules())
def test_every_variant_compiles_as_intended(module: str, tmp_path: Path) -> None:
    # In its own process: kernels imported under the interpreter cannot be compiled.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = tmp_path / "aot.json"
    command = [sys.executable, "-m", "robustad.kernels.aot", module, "--json", str(result)]
    done = subprocess.run(  # elsewhere than at the root, where the package lies unbuilt
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reports: list[dict[str, Any]] = json.loads(result.read_text())
    assert {one["arch"] for one in reports} == set(ARCHS)
    for one in reports:
        assert not one["problems"], one
        assert (one["local"] or 0) <= one["local_limit"] <= 32, one  # None without cuobjdump
        assert one["shared"] <= SHARED_LIMIT[one["arch"]], one
        if one["expect_wgmma"]:
            assert one["wgmma"] if one["arch"] >= 90 else one["mma"], one


@pytest.mark.parametrize(
    ("figures", "problem"),
    [
        ({"arch": 90, "expect_wgmma": True, "mma": True}, "no wgmma"),
        ({"arch": 80, "expect_wgmma": True, "wgmma": True}, "no mma.sync"),
        ({"arch": 80, "local": 8}, "8 bytes of registers spilled"),
        ({"arch": 80, "local": 17, "local_limit": 16}, "17 bytes of registers spilled"),
        ({"arch": 80, "shared": 163 * 1024 + 1}, "more than 166912"),
        ({"arch": 90, "shared": 227 * 1024 + 1}, "more than 232448"),
        ({"arch": 90, "error": "ValueError: no"}, "does not compile: ValueError: no"),
    ],
)
def test_problems_are_named(figures: dict[str, Any], problem: str) -> None:
    (found,) = Report("module", "variant", **figures).problems()
    assert problem in found


def test_a_sound_report_has_no_problems() -> None:
    report = Report("m", "v", 90, expect_wgmma=True, wgmma=True, shared=227 * 1024, local=0)
    assert report.problems() == []


def test_resources_without_figures() -> None:
    assert parse_resources("cuobjdump fatal : no kernel") == (None, None)
