"""Compile every kernel variant for GPUs that are not there, and check what came out.

`python -m robustad.kernels.aot [module ...] [--arch 80 90] [--jobs N] [--json FILE]` compiles down
to machine code, which takes no GPU and no driver, prints one line a variant, and exits with 1 if a
variant spills registers, needs more shared memory than the GPU has, or misses the matrix
instructions it was written for. Each kernel module lists its variants in `variants()`.

Triton's interpreter (`TRITON_INTERPRET=1`) replaces its compiler, so this runs without it.
"""

import argparse
import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ARCHS = (80, 90)
# Most shared memory one block may ask for, in bytes (CUDA programming guide, compute capabilities).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


@dataclass(frozen=True)
class Variant:
    """One way a kernel is compiled.

    Attributes
    ----------
    name : str
        What the report calls it; unique in its module.
    kernel : triton.JITFunction
        The decorated function; an autotuner around it is taken off.
    signature : mapping of str to str
        Triton type of each run-time argument: `"*fp32"`, `"i32"`, `"fp32"`, `"*bf16"`.
    constexprs : mapping of str to value
        The compile-time arguments. Triton treats an integer argument that is 1 as one of them, so
        a kernel launched with such should have a variant that says so.
    num_warps, num_stages : int, default 4 and 3
        As at launch.
    expect_wgmma : bool, default False
        Whether the matrix unit must be used: `wgmma` from sm_90 on, `mma.sync` before.
    aligned : tuple of str, default ()
        Integer arguments that are multiples of 16. Pointers always count as aligned.
    archs : tuple of int, default (80, 90)
        Compute capabilities it is meant for.
    local_limit : int, default 0
        Bytes of local memory a thread may use: for kernels where some versions of NVIDIA's
        assembler spill a value or two outside the loops that matter.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    expect_wgmma: bool = False
    aligned: tuple[str, ...] = ()
    archs: tuple[int, ...] = ARCHS
    local_limit: int = 0


@dataclass(frozen=True)
class Report:
    """What compiling one variant for one GPU gave.

    Attributes
    ----------
    module, variant : str
        Where it comes from.
    arch : int
        Compute capability, such as 90.
    error : str or None
        Why it did not compile; the other figures mean nothing then.
    expect_wgmma, wgmma, mma : bool
        Whether the matrix unit is asked for, and which of its instructions are in the PTX.
    shared : int
        Bytes of shared memory a block.
    registers, local : int or None
        Registers a thread, and bytes of local memory (spilled registers) a thread; None where
        `cuobjdump` is not to be found.
    local_limit : int
        As in the variant.
    """

    module: str
    variant: str
    arch: int
    error: str | None = None
    expect_wgmma: bool = False
    wgmma: bool = False
    mma: bool = False
    shared: int = 0
    registers: int | None = None
    local: int | None = None
    local_limit: int = 0

    def problems(self) -> list[str]:
        """List what is wrong, in words; empty if nothing is."""
        if self.error is not None:
            return [f"does not compile: {self.error}"]
        found = []
        if self.expect_wgmma and not (self.wgmma if self.arch >= 90 else self.mma):
            found.append(f"no {'wgmma' if self.arch >= 90 else 'mma.sync'} in the PTX")
        if self.local is not None and self.local > self.local_limit:
            found.append(f"{self.local} bytes of registers spilled")
        limit = SHARED_LIMIT.get(self.arch, min(SHARED_LIMIT.values()))
        if self.shared > limit:
            found.append(f"{self.shared} bytes of shared memory, more than {limit}")
        return found


def modules() -> list[str]:
    """Names of the kernel modules, those in `robustad.kernels` that have `variants`."""
    package = importlib.import_module("robustad.kernels")
    names = [found.name for found in pkgutil.iter_modules(package.__path__) if found.name != "aot"]
    return [
        n for n in names if hasattr(importlib.import_module(f"robustad.kernels.{n}"), "variants")
    ]


def compile_variant(module: str, variant: Variant, arch: int) -> Report:
    """Compile one variant for one GPU.

    Parameters
    ----------
    module : str
        Goes into the report.
    variant : Variant
        What to compile.
    arch : int
        Compute capability, such as 80 or 90.

    Returns
    -------
    Report
        Also where it does not compile.

    Raises
    ------
    RuntimeError
        Under `TRITON_INTERPRET`, where there is no compiler.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise RuntimeError("TRITON_INTERPRET is set: kernels cannot be compiled under it")
    kernel = variant.kernel
    while not isinstance(kernel, triton.JITFunction):  # autotuners and heuristics wrap it
        kernel = kernel.fn
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        kind = "constexpr" if name in variant.constexprs else variant.signature[name]
        signature[name] = kind
        if kind != "constexpr" and (kind.startswith("*") or name in variant.aligned):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, dict(variant.constexprs), attributes)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    try:
        made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    except Exception as error:  # whatever a compiler throws is the report
        message = f"{type(error).__name__}: {error}".strip()
        return Report(module, variant.name, arch, error=message[-2000:])
    ptx = made.asm["ptx"]
    registers, local = _resources(made.asm["cubin"])
    return Report(
        module,
        variant.name,
        arch,
        expect_wgmma=variant.expect_wgmma,
        wgmma="wgmma.mma_async" in ptx,
        mma="mma.sync" in ptx,
        shared=int(made.metadata.shared),
        registers=registers,
        local=local,
        local_limit=variant.local_limit,
    )


def cuobjdump() -> str | None:
    """Path of NVIDIA's tool that reads machine code: Triton brings it, and so does CUDA."""
    import triton

    own = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usual = Path("/usr/local/cuda/bin/cuobjdump")
    if own.is_file():
        return str(own)
    return shutil.which("cuobjdump") or (str(usual) if usual.is_file() else None)


def parse_resources(text: str) -> tuple[int | None, int | None]:
    """Registers and bytes of local memory a thread, from `cuobjdump --dump-resource-usage`.

    Examples
    --------
    >>> parse_resources(" Function f:  REG:40 STACK:8 SHARED:0 LOCAL:0 CONSTANT[0]:580")
    (40, 8)
    """
    registers = re.search(r"\bREG:(\d+)", text)
    # Spilled registers lie on the stack, arrays that did not fit into registers in LOCAL.
    local = re.findall(r"\b(?:STACK|LOCAL):(\d+)", text)
    if registers is None or not local:
        return None, None
    return int(registers[1]), sum(int(size) for size in local)


def _resources(cubin: bytes) -> tuple[int | None, int | None]:
    tool = cuobjdump()
    if tool is None:
        return None, None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [tool, "--dump-resource-usage", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return parse_resources(done.stdout)


def _compile_at(place: tuple[str, int, int]) -> Report:
    """Compile in a worker: kernels don't travel between processes, their places do."""
    module, index, arch = place
    variant = importlib.import_module(f"robustad.kernels.{module}").variants()[index]
    return compile_variant(module, variant, arch)


def compile_all(names: list[str], archs: tuple[int, ...] = ARCHS, jobs: int = 1) -> list[Report]:
    """Compile all variants of the named kernel modules, in `jobs` processes."""
    places = [
        (name, index, arch)
        for name in names
        for index, one in enumerate(importlib.import_module(f"robustad.kernels.{name}").variants())
        for arch in archs
        if arch in one.archs
    ]
    if jobs == 1:
        return [_compile_at(place) for place in places]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_compile_at, places))


def table(reports: list[Report]) -> str:
    """Lay the reports out, one line each."""
    width = max([len(f"{one.module}: {one.variant}") for one in reports], default=10)
    lines = [f"{'variant':<{width}}  arch  matrix    shared  registers  local"]
    for one in reports:
        matrix = "wgmma" if one.wgmma else "mma" if one.mma else "-"
        figures = f"{one.shared:>8}  {one.registers!s:>9}  {one.local!s:>5}"
        name = f"{one.module}: {one.variant}"
        lines.append(f"{name:<{width}}  {one.arch:>4}  {matrix:<6}  {figures}")
        lines += [f"    {problem}" for problem in one.problems()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m robustad.kernels.aot")
    parser.add_argument("module", nargs="*", help="kernel modules; default: all")
    parser.add_argument("--arch", nargs="+", type=int, default=list(ARCHS), metavar="CAPABILITY")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the reports here as well")
    options = parser.parse_args(arguments)
    reports = compile_all(options.module or modules(), tuple(options.arch), options.jobs)
    print(table(reports))
    if options.json:
        made = [asdict(one) | {"problems": one.problems()} for one in reports]
        options.json.write_text(json.dumps(made, indent=1) + "\n")
    bad = sum(bool(one.problems()) for one in reports)
    print(f"{len(reports)} compiled, {bad} with problems")
    return 1 if bad or not reports else 0


if __name__ == "__main__":
    sys.exit(main())
