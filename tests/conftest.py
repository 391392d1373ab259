"""How many threads tests take, kernels without a GPU to compile them for, npm's packages."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch

# Triton kernels are interpreted where there is no GPU. Read when a kernel module is imported, so
# before any test is.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parents[1]
# Seconds for which a failed installation is not tried again.
NPM_PATIENCE = 600
# Most tests are many tiny operations: handing each out to threads costs more than it does, and on
# a busy machine many times more. The environment may say otherwise.
THREADS = torch.get_num_threads()
if not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & set(os.environ):
    torch.set_num_threads(1)


@pytest.fixture
def all_threads():
    """As many threads as torch takes by itself, for code that shares its work between them."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def npm_packages():
    """Install what a folder's package-lock.json names, once a checkout; its node_modules."""

    def install(folder):
        npm, lock = shutil.which("npm"), Path(folder, "package-lock.json")
        if npm is None or shutil.which("node") is None:
            pytest.skip("needs node and npm")
        digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
        place = ROOT / "build" / "npm" / digest
        place.mkdir(parents=True, exist_ok=True)
        done, failed = place / "done", place / "failed"
        with (place / "lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # other test processes want the same
            if not done.is_file():
                if failed.is_file() and time.time() - failed.stat().st_mtime < NPM_PATIENCE:
                    pytest.skip(failed.read_text())
                for name in ("package.json", "package-lock.json"):
                    shutil.copyfile(Path(folder, name), place / name)
                # Scripts would fetch what a CPU does without.
                command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
                command += ["--fetch-retries=0", "--loglevel=error"]
                made = subprocess.run(
                    command, cwd=place, capture_output=True, text=True, check=False, timeout=500
                )
                if made.returncode:
                    reason = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
                    failed.write_text(f"npm cannot install {folder}: {reason}")
                    pytest.skip(failed.read_text())
                done.touch()
        return place / "node_modules"

    return install
