"""Tables of ratios from benchmark runs, and docs/performance.md from the committed ones.

    pytest benchmarks --benchmark-json=build/bench.json         (or: make bench)
    python benchmarks/render_performance.py build/bench.json    (prints the tables)
    python benchmarks/render_performance.py --add NAME build/bench.json
    python benchmarks/render_performance.py

The third form keeps what the tables need in benchmarks/results/performance_NAME.json; the last
rewrites docs/performance.md from all such files.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import markdown

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
# What a group's rows are compared with: an operator, its ONNX form, the passes of an attack.
BASES = ("robustad", "operator float32", "bare passes", "uint8_nhwc")
KEPT = (
    *("items", "flops", "bytes", "extra_memory", "peak_bytes", "overhead"),
    *("dtype", "device", "k"),
)
INTRODUCTION = (
    "# Performance\n\n"
    "Made by `python benchmarks/render_performance.py` from the files "
    "`benchmarks/results/performance_*.json`; do not edit by hand. All rows of a table come from "
    "one run on one machine, which did nothing else; times are medians. `x` says how many times "
    "longer than robustad an implementation takes: above 1, robustad is faster. Bank searches are "
    "compared with robustad's operator in onnxruntime, attacks with the bare passes of their "
    "steps, forms of exported files with the default one; `over its passes` compares with all "
    "passes an attack makes, timed in turn with it.\n\n"
    "`of the roof` is the share of what the machine can do that was reached: arithmetic against "
    "torch's own float32 matrix product, memory traffic against a copy of 128 MB, both measured "
    "beside the rest, whichever limits more. It can exceed 100%: the coarse pass of `cosine_nn` "
    "multiplies 8- or 16-bit integers (or bfloat16) instead of float32, and a bank that fits a "
    "cache is read faster than memory.\n\n"
    "`memory` is what a call takes beside its arguments, from the largest resident size of the "
    "process (of the attention degree: of a process of its own). Every benchmark asserts that its "
    "results are right. The instruction set in a row's name was forced; plain `robustad` is what a "
    "user gets.\n\n"
    "The vectors of `cosine_nn` and of bank searches are made, of 24 inner dimensions and some "
    "noise, which `cosine_nn` with AVX2 gains by: few directions hold most of their variance. "
    "Groups that end in `noise` have vectors of all directions, the hardest there are; those that "
    "end in a category the patch features that a ResNet-18 finds in its images."
)


def condense(run: dict[str, Any]) -> dict[str, Any]:
    """Keep of a pytest-benchmark file what the tables need."""
    info = run["machine_info"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in run["benchmarks"]:
        impl = (one.get("params") or {}).get("impl")
        if impl is None:
            continue
        row = {"impl": impl, "median": one["stats"]["median"], "min": one["stats"]["min"]}
        row |= {key: one["extra_info"][key] for key in KEPT if one["extra_info"].get(key)}
        groups.setdefault(one["group"], []).append(row)
    cpu = info.get("cpu", {})
    return {
        "machine": {
            "cpu": f"{cpu.get('count')} cores of {cpu.get('brand_raw', info.get('processor'))}",
            "capability": info.get("torch_cpu_capability"),
            "gpu": info.get("gpu"),
            "python": info.get("python_version"),
            **{name: at for name, at in info.get("versions", {}).items() if at},
        },
        "threads": info.get("threads", {}).get("torch"),
        "date": run["datetime"][:10],
        "commit": (run.get("commit_info") or {}).get("id", "")[:10],
        "groups": dict(sorted(groups.items())),
    }


def roofs(document: dict[str, Any]) -> dict[str, float]:
    """Return flop/s and byte/s of the machine, as far as the run measured them."""
    found = {}
    for row in document["groups"].get("machine", []):
        if row["impl"] == "matrix product fp32":
            found["flops"] = row["flops"] / row["median"]
        if row["impl"] == "copy":
            found["bytes"] = row["bytes"] / row["median"]
    return found


def seconds(value: float) -> str:
    """Format a time with three figures."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def reached(row: dict[str, Any], roof: dict[str, float]) -> str:
    """Share of the roof, of what limits more; a dash where the run does not say."""
    needed = [row[key] / roof[key] for key in ("flops", "bytes") if row.get(key) and key in roof]
    return f"{max(needed) / row['median']:.0%}" if needed else "-"


def memory(row: dict[str, Any]) -> str:
    """Memory beside the arguments in MB, where it was measured."""
    used = row.get("extra_memory", row.get("peak_bytes"))
    return f"{used / 1e6:.3g}" if used else "-"


def table(rows: list[dict[str, Any]], roof: dict[str, float]) -> str:
    """One group, the fastest first."""
    base = next((row["median"] for row in rows if row["impl"] in BASES), None)
    measured = any("extra_memory" in row or "peak_bytes" in row for row in rows)
    timed = any("overhead" in row for row in rows)
    columns = ["", "median", "x", "of the roof"] + ["memory, MB"] * measured
    columns += ["over its passes"] * timed
    lines = []
    for row in sorted(rows, key=lambda row: row["median"]):
        ratio = f"{row['median'] / base:.2f}" if base else "-"
        cells = [row["impl"], seconds(row["median"]), ratio, reached(row, roof)]
        over = f"{row['overhead']:+.1%}" if "overhead" in row else "-"
        lines.append(cells + [memory(row)] * measured + [over] * timed)
    return markdown.table(columns, lines)


def machine_line(document: dict[str, Any]) -> str:
    """Say where and when."""
    known = [f"{key} {value}" for key, value in document["machine"].items() if value]
    roof = roofs(document)
    extra = [f"{document['threads']} threads", document["date"]]
    if "flops" in roof:
        extra.append(f"float32 matrix product {roof['flops'] / 1e9:.0f} GFLOP/s")
    if "bytes" in roof:
        extra.append(f"copy {roof['bytes'] / 1e9:.1f} GB/s")
    return "; ".join([", ".join(known), *extra])


def tables(document: dict[str, Any], level: int = 3) -> str:
    """All groups of a run."""
    roof = roofs(document)
    return "\n\n".join(
        f"{'#' * level} {name}\n\n{table(rows, roof)}"
        for name, rows in document["groups"].items()
        if name != "machine"
    )


def profile(path: Path) -> str:
    """Where a training step's time goes, from a file of profile_training.py."""
    found = json.loads(path.read_text())
    phases = [[name, f"{at / found['seconds']:.0%}"] for name, at in found["phases"].items()]
    operations = [[f"`{name}`", f"{share:.0%}"] for name, share in found["operations"].items()]
    return "\n\n".join(
        [
            f"## Where a training step's time goes: {path.stem.removeprefix('profile_')}",
            f"{found['size']} pixels, batch {found['batch']}, {found['steps']} attack steps, "
            f"{found['device']}, {found['threads']} threads: {seconds(found['seconds'])}. "
            "Command: `python benchmarks/profile_training.py`.",
            markdown.table(["phase", "share"], phases),
            markdown.table(["operation (itself, without those it calls)", "share"], operations),
        ]
    )


def page() -> str:
    """Render docs/performance.md."""
    parts = [INTRODUCTION]
    for path in sorted(RESULTS.glob("performance_*.json")):
        document = json.loads(path.read_text())
        parts += [
            f"## {path.stem.removeprefix('performance_')}",
            machine_line(document) + f". Command: `{document['command']}`.",
            tables(document),
        ]
    parts += [profile(path) for path in sorted(RESULTS.glob("profile_*.json"))]
    return "\n\n".join(parts).rstrip() + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="pytest-benchmark files to print")
    parser.add_argument("--add", metavar="NAME", help="keep the runs under this name")
    parser.add_argument("--command", default="make bench", help="what made them (with --add)")
    parser.add_argument("--check", action="store_true", help="fail if the page is out of date")
    options = parser.parse_args()
    merged: dict[str, Any] = {}
    for path in options.runs:
        try:
            document = condense(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError) as error:
            sys.exit(f"{path}: expected a file of pytest-benchmark, got {error!r}")
        groups = {**merged.get("groups", {}), **document["groups"]}
        merged = {**document, "groups": dict(sorted(groups.items()))}
    if options.add:
        merged["command"] = options.command
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"performance_{options.add}.json").write_text(
            json.dumps(merged, indent=1) + "\n"
        )
    elif options.runs:
        print(machine_line(merged), tables(merged), sep="\n\n")
        return
    if options.check:
        if PAGE.read_text() != page():
            sys.exit(f"{PAGE.relative_to(ROOT)} is out of date: run {Path(__file__).name}")
    else:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
