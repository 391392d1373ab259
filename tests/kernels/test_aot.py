"""Every kernel variant compiles for sm_80 and sm_90, without a GPU, into what was intended."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton")

from robustad.kernels.aot import ARCHS, SHARED_LIMIT, Report, modules, parse_resources


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All modules compiled, in another process: those imported for the interpreter cannot be."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    folder = tmp_path_factory.mktemp("aot")
    command = [sys.executable, "-m", "robustad.kernels.aot", "--json", "aot.json"]
    done = subprocess.run(  # elsewhere than at the root, where the package lies unbuilt
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert (folder / "aot.json").exists(), done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads((folder / "aot.json").read_text())
    assert (done.returncode != 0) == any(one["problems"] for one in found), done.stderr
    return found


@pytest.mark.parametrize("module", modules())
def test_every_variant_compiles_as_intended(module: str, reports: list[dict[str, Any]]) -> None:
    own = [one for one in reports if one["module"] == module]
    assert {one["arch"] for one in own} == set(ARCHS)
    for one in own:
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
