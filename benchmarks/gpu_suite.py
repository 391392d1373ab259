"""Prove the GPU kernels on the machine at hand: tests, sanitizer, benchmarks, in one command.

    python benchmarks/gpu_suite.py [--build] [--out build/gpu_suite] [--budget 480] [--dry-run]

Writes `gpu_suite.json` and `gpu_suite.md` into the folder, after every step, so that what was found
is kept whatever happens next. A step that fails or runs out of its time is recorded and the others
go on. Exit code: 0 if all steps passed (or were skipped for want of a tool), 1 if one did not, 3
without an NVIDIA GPU, in which case nothing is run.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_report import markdown, parse_junit, parse_sanitizer, summarise

ROOT = Path(__file__).resolve().parents[1]
EXERCISE = Path("benchmarks", "gpu_exercise.py")
PACKAGES = ("robustad", "torch", "triton", "numpy", "pytest", "pytest-benchmark")
NO_GPU = 3
GPU_TESTS = "(cuda or gpu) and not gpu_suite"  # by name or parameter
# -P: without the working folder on the path, where the package lies unbuilt.
PYTEST = (sys.executable, "-P", "-m", "pytest")


class Skip(Exception):  # noqa: N818 - not an error
    """A step cannot run here, and why."""


@dataclass
class Suite:
    """The run so far.

    Attributes
    ----------
    out : Path
        Folder of everything that is written.
    deadline : float
        On the monotonic clock.
    environment : dict
        Of the processes that the steps start.
    result : dict
        What becomes the JSON.
    """

    out: Path
    deadline: float
    environment: dict[str, str]
    result: dict[str, Any] = field(default_factory=lambda: {"machine": {}, "steps": {}})

    def left(self) -> float:
        """Seconds before the deadline."""
        return self.deadline - time.monotonic()

    def call(self, name: str, command: list[str], limit: float, **more: str) -> tuple[int, str]:
        """Run a command; return its exit code (124: out of time) and output, which is kept."""
        log = self.out / f"{name}.log"
        limit = max(1.0, min(limit, self.left()))
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment | more,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # the children it started as well
                process.wait()
                code = 124
        return code, log.read_text(errors="replace")

    def save(self) -> None:
        """Write the JSON and the page."""
        text = json.dumps(self.result, indent=1)
        (self.out / "gpu_suite.json").write_text(text + "\n")
        (self.out / "gpu_suite.md").write_text(markdown(self.result))

    def step(self, name: str, work: Callable[["Suite", float], str], limit: float) -> None:
        """Run one step, whatever it does, and record how it went."""
        start = time.monotonic()
        try:
            if self.left() < 1:
                raise TimeoutError("no time left")
            status, note = "passed", work(self, limit)
        except Skip as reason:
            status, note = "skipped", str(reason)
        except Exception as error:  # the other steps go on
            status, note = "failed", f"{type(error).__name__}: {error}"
        spent = time.monotonic() - start
        self.result["steps"][name] = {"status": status, "seconds": spent, "note": note}
        print(f"{name}: {status} in {spent:.0f} s. {note}", flush=True)
        self.save()


def ended(code: int, output: str, limit: float) -> str:
    """Why a command failed, in one line."""
    if code == 124:
        return f"out of its {limit:.0f} s"
    lines = [line for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if "Error" in line] or lines
    return f"exit code {code}: {lines[-1][:200] if lines else 'no output'}"


def build(suite: Suite, limit: float) -> str:
    """Install the package from this tree into a folder of its own, for this Python."""
    target = (suite.out / "package").resolve()
    shutil.rmtree(target, ignore_errors=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, "."]
    code, output = suite.call("build", command, limit)
    if code:
        raise RuntimeError(ended(code, output, limit))
    previous = suite.environment.get("PYTHONPATH")
    suite.environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(target), previous)))
    return ""


def ceilings(suite: Suite, limit: float) -> str:
    """Measure what the GPU reaches in torch's matrix products and copies."""
    code, output = suite.call("ceilings", [sys.executable, str(EXERCISE), "ceilings"], limit)
    if code:
        raise RuntimeError(ended(code, output, limit))
    suite.result["ceilings"] = json.loads(output.strip().splitlines()[-1])
    return ""


def tests(suite: Suite, limit: float) -> str:
    """Run the tests that need a GPU, with kernels compiled instead of interpreted."""
    report = suite.out / "tests.xml"
    report.unlink(missing_ok=True)
    command = [*PYTEST, "tests", "-k", GPU_TESTS, f"--junitxml={report}"]
    # A test module that lacks a package here must not hide the others.
    code, output = suite.call("tests", [*command, "--continue-on-collection-errors"], limit)
    if not report.is_file():
        raise RuntimeError(ended(code, output, limit))
    counts = suite.result["tests"] = parse_junit(report.read_text())
    note = f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
    if code or counts["failed"] or not counts["passed"]:
        raise RuntimeError(note)
    return note


def sanitizer(tool: str) -> Callable[[Suite, float], str]:
    """Make the step of one of compute-sanitizer's tools."""

    def work(suite: Suite, limit: float) -> str:
        """Run every kernel on small inputs under compute-sanitizer."""
        usual = Path("/usr/local/cuda/bin/compute-sanitizer")
        program = shutil.which("compute-sanitizer") or (str(usual) if usual.is_file() else None)
        if program is None:
            raise Skip("compute-sanitizer is not installed")
        command = [program, "--tool", tool, "--error-exitcode", "86", sys.executable]
        # One allocation a tensor, so that an access past its end is seen as such.
        code, output = suite.call(
            tool, [*command, str(EXERCISE), "kernels"], limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1"
        )
        problems = parse_sanitizer(output)
        suite.result.setdefault("sanitizer", {})[tool] = problems
        if code or problems is None or problems:
            found = "no summary" if problems is None else f"{problems} problems"
            raise RuntimeError(f"{found}; {ended(code, output, limit)}")
        return "0 problems"

    return work


def exercises(suite: Suite, limit: float) -> str:
    """Run every kernel on small inputs; compiled and tuned here, they are cached for the rest."""
    code, output = suite.call("exercises", [sys.executable, str(EXERCISE), "kernels"], limit)
    went = {
        name: outcome
        for name, _, outcome in (line.partition(": ") for line in output.splitlines())
        if outcome in ("ok", "failed")
    }
    suite.result["exercises"] = went
    note = ", ".join(f"{name} {outcome}" for name, outcome in went.items())
    if code:
        raise RuntimeError(f"{note}; {ended(code, output, limit)}")
    return note


def benchmarks(suite: Suite, limit: float) -> str:
    """Run all GPU benchmarks with their peers."""
    report = suite.out / "benchmarks.json"
    report.unlink(missing_ok=True)
    command = [*PYTEST, "benchmarks", "-k", "cuda"]
    code, output = suite.call(
        "benchmarks",
        [*command, f"--benchmark-json={report}", "--continue-on-collection-errors"],
        limit,
    )
    if not report.is_file() or not report.stat().st_size:
        raise RuntimeError(ended(code, output, limit))
    found = summarise(json.loads(report.read_text()), suite.result.get("ceilings", {}))
    suite.result["benchmarks"] = found
    if code or not found:
        raise RuntimeError(f"{len(found)} benchmarks; {ended(code, output, limit)}")
    return f"{len(found)} benchmarks"


BUILD_LIMIT = 180.0
# Seconds each step may take; together under eight minutes.
STEPS: dict[str, tuple[Callable[[Suite, float], str], float]] = {
    "ceilings": (ceilings, 40),
    "exercises": (exercises, 60),
    "tests": (tests, 120),
    "memcheck": (sanitizer("memcheck"), 60),
    "racecheck": (sanitizer("racecheck"), 50),
    "benchmarks": (benchmarks, 140),
}


def machine() -> dict[str, Any]:
    """Describe machine, driver, versions and commit."""
    import torch

    def output(*command: str) -> str | None:
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    found: dict[str, Any] = {
        "date": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "commit": output("git", "rev-parse", "HEAD"),
        "changed": bool(output("git", "status", "--porcelain")),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu_suite")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for all but --build")
    parser.add_argument("--build", action="store_true", help="install this tree into OUT first")
    parser.add_argument("--only", nargs="+", choices=STEPS, help="steps to run; default: all")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    options = parser.parse_args(arguments)
    plan = {name: step for name, step in STEPS.items() if name in (options.only or STEPS)}
    if options.build:
        plan = {"build": (build, BUILD_LIMIT), **plan}
    if options.dry_run:
        for name, (work, limit) in plan.items():
            print(f"{name}: up to {limit:.0f} s. {(work.__doc__ or '').strip()}".strip())
        return 0
    import torch

    if not torch.cuda.is_available():
        print("gpu_suite: torch finds no NVIDIA GPU here; nothing was run", file=sys.stderr)
        return NO_GPU
    options.out.mkdir(parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_AUTOTUNING"] = "1"  # the sanitizer makes tuning very slow
    budget = options.budget + (BUILD_LIMIT if options.build else 0.0)
    suite = Suite(options.out.resolve(), time.monotonic() + budget, environment)
    suite.result["machine"] = machine()
    for name, (work, limit) in plan.items():
        suite.step(name, work, limit)
    print(markdown(suite.result))
    return 1 if any(s["status"] == "failed" for s in suite.result["steps"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
