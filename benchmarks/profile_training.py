"""Where the time of one training step goes, by phase and by operation.

    python benchmarks/profile_training.py --add NAME [--tiny]

ViT-S/14 at 224 pixels, batch 16, as bench_training.py; keeps what it finds in
benchmarks/results/profile_NAME.json, from which render_performance.py makes a table.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_training import STEPS, Case

RESULTS = Path(__file__).resolve().parent / "results"
KEPT = 10


def timed(function: Callable[..., Any], into: dict[str, float], name: str) -> Callable[..., Any]:
    """Wrap a function so that the time it takes is added up."""

    def run(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        made = function(*args, **options)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        into[name] = into.get(name, 0.0) + time.perf_counter() - start
        return made

    return run


def profile(size: str, device: str) -> dict[str, Any]:
    """Time the phases of one step, then its operations in another."""
    from robustad.training import step as module

    case = Case(size, device)
    ours = case.ours()
    phases: dict[str, float] = {}
    attack = module.adversarial
    module.adversarial = timed(attack, phases, "attack")
    ours.pseudo = timed(ours.pseudo, phases, "pseudo-anomalies")
    ours.optimiser.step = timed(ours.optimiser.step, phases, "optimiser")
    try:
        start = time.perf_counter()
        case.step(ours)
        whole = time.perf_counter() - start
    finally:
        module.adversarial = attack
    phases["training passes"] = whole - sum(phases.values())
    with torch.profiler.profile() as found:
        case.step(ours)
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    rows = sorted(found.key_averages(), key=lambda one: -getattr(one, key))
    total = sum(getattr(one, key) for one in rows)
    return {
        "size": size,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "steps": STEPS,
        "batch": case.count,
        "threads": torch.get_num_threads(),
        "seconds": whole,
        "phases": dict(sorted(phases.items(), key=lambda one: -one[1])),
        "operations": {one.key: getattr(one, key) / total for one in rows[:KEPT]},
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", metavar="NAME", required=True, help="keep it under this name")
    parser.add_argument("--tiny", action="store_true", help="a network of a second, for a check")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = profile("tiny" if options.tiny else "vit_small_patch14 224", device)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"profile_{options.add}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
