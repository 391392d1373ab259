"""The GPU suite as far as it goes without a GPU: its parts, its failures, its readings."""

import importlib
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def suite_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gpu_suite")


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gpu_report")


@pytest.fixture
def suite(suite_module: ModuleType, tmp_path: Path) -> Any:
    import os

    return suite_module.Suite(tmp_path, time.monotonic() + 60, dict(os.environ))


def bench(group: str | None, impl: str, median: float, **info: Any) -> dict[str, Any]:
    params = {"impl": impl}
    return {
        "name": f"test[{impl}]",
        "group": group,
        "params": params,
        "stats": {"median": median},
        "extra_info": info,
    }


DOCUMENT = {
    "benchmarks": [
        bench("g", "robustad", 0.5, flops=100.0, bytes=10.0, dtype="float32"),
        bench("g", "torch", 2.0, flops=100.0, dtype="bfloat16"),
        bench(None, "alone", 1.0),
    ]
}
CEILINGS = {"bf16_flops": 1000.0, "fp32_flops": 400.0, "bytes": 40.0}


def test_summarise(report: ModuleType) -> None:
    ours, peer, alone = report.summarise(DOCUMENT, CEILINGS)
    assert (ours["ratio"], peer["ratio"], alone["ratio"]) == (1.0, 4.0, None)
    assert (ours["of_flops"], ours["of_bytes"]) == (0.5, 0.5)
    assert (peer["of_flops"], peer["of_bytes"]) == (0.05, None)
    assert alone["group"] == "test[alone]"
    assert report.summarise(DOCUMENT, {})[0]["of_flops"] is None


def test_page(report: ModuleType) -> None:
    result = {
        "machine": {"gpu": "Some GPU", "driver": None},
        "steps": {"tests": {"status": "failed", "seconds": 3.2, "note": "1 failed"}},
        "ceilings": {"bf16_flops": 5e14, "fp32_flops": 4e13, "bytes": 2.5e12},
        "benchmarks": report.summarise(DOCUMENT, CEILINGS),
    }
    page = report.markdown(result)
    assert "gpu Some GPU" in page
    assert "driver" not in page
    assert "| tests | failed | 3 s | 1 failed |" in page
    assert "bf16 500 TFLOP/s, fp32 40 TFLOP/s, memory 2.50 TB/s" in page
    assert "| torch | 2000.000 ms | 4.00 | 5% | - |" in page
    assert report.markdown({}).startswith("# GPU suite")


def test_junit_counts(report: ModuleType) -> None:
    text = """<testsuites><testsuite>
      <testcase classname="a" name="one"/>
      <testcase classname="a" name="two"><skipped/></testcase>
      <testcase classname="a" name="three"><failure>x</failure></testcase>
      <testcase classname="b" name=""><error>not collected</error></testcase>
    </testsuite></testsuites>"""
    counts = report.parse_junit(text)
    assert counts == {"passed": 1, "failed": 2, "skipped": 1, "failures": ["a::three", "b::"]}


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0),
        ("========= ERROR SUMMARY: 12 errors\n", 12),
        ("========= RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)", 3),
        ("========= COMPUTE-SANITIZER\nKilled", None),
    ],
)
def test_sanitizer_summary(report: ModuleType, text: str, problems: int | None) -> None:
    assert report.parse_sanitizer(text) == problems


def test_steps_go_on_after_a_failure(suite_module: ModuleType, suite: Any) -> None:
    def failing(suite: Any, limit: float) -> str:
        raise ValueError("broken")

    def skipping(suite: Any, limit: float) -> str:
        raise suite_module.Skip("no tool")

    suite.step("one", failing, 5)
    suite.step("two", skipping, 5)
    suite.step("three", lambda suite, limit: "fine", 5)
    steps = {name: (one["status"], one["note"]) for name, one in suite.result["steps"].items()}
    assert steps == {
        "one": ("failed", "ValueError: broken"),
        "two": ("skipped", "no tool"),
        "three": ("passed", "fine"),
    }
    assert "| one | failed |" in (suite.out / "gpu_suite.md").read_text()
    assert '"no tool"' in (suite.out / "gpu_suite.json").read_text()


def test_a_command_out_of_time(suite: Any) -> None:
    start = time.monotonic()
    command = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(30)"]
    assert suite.call("slow", command, 1.5) == (124, "begun\n")
    assert time.monotonic() - start < 15


def test_no_step_starts_after_the_deadline(suite: Any) -> None:
    suite.deadline = time.monotonic()
    suite.step("late", lambda suite, limit: "ran", 5)
    assert suite.result["steps"]["late"]["note"] == "TimeoutError: no time left"


def test_a_failing_command_is_quoted(suite_module: ModuleType, suite: Any) -> None:
    command = [sys.executable, "-c", "print('boom'); raise SystemExit(7)"]
    code, output = suite.call("bad", command, 30)
    assert suite_module.ended(code, output, 30) == "exit code 7: boom"
    assert suite_module.ended(124, output, 30) == "out of its 30 s"


def test_missing_sanitizer_is_skipped(
    suite_module: ModuleType, suite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite_module.shutil, "which", lambda name: None)
    monkeypatch.setattr(suite_module.Path, "is_file", lambda path: False)
    with pytest.raises(suite_module.Skip, match="compute-sanitizer is not installed"):
        suite_module.sanitizer("memcheck")(suite, 5)


def test_all_steps_fit_the_budget(suite_module: ModuleType) -> None:
    assert sum(limit for _, limit in suite_module.STEPS.values()) <= 480


def test_dry_run(suite_module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert suite_module.main(["--dry-run", "--build"]) == 0
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines()] == ["build", *suite_module.STEPS]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "gpu_suite.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "no NVIDIA GPU here; nothing was run" in done.stderr
    assert not (tmp_path / "out").exists()
