"""Builds the C++ core, operators for onnxruntime and, where nvcc is found, CUDA kernels.

pyproject.toml declares the rest.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from pybind11.setup_helpers import Pybind11Extension
from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

CSRC = Path("csrc")
CUDA = CSRC / "cuda"
ORT = CSRC / "onnxruntime"
ORT_OPS = "robustad.runtime._ort_ops"
AVX512 = [
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
    "-Wno-maybe-uninitialized",  # gcc 12 finds its own headers wanting
]
# Flags of files whose stem ends so; which of them run is decided at run time. Such a file defines
# nothing that the linker could share with others (no inline functions or templates outside unnamed
# namespaces), and is empty but for its entry where the compiler did not get the flags.
SUFFIX_FLAGS = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512": AVX512,
    "_vnni": [*AVX512, "-mavx512vnni"],
    "_amx": [*AVX512, "-mamx-tile", "-mamx-bf16"],
}
GPUS = [
    *("-gencode", "arch=compute_80,code=sm_80"),
    *("-gencode", "arch=compute_90,code=sm_90"),
    *("-gencode", "arch=compute_90,code=compute_90"),
]
# Vectors wider than a file's registers are lowered, which GCC thinks worth a note.
CORE = ["-ffp-contract=fast", "-fvisibility=hidden", "-Wno-psabi"]
SANITIZE = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@cache
def accepted(compiler: tuple[str, ...], flags: tuple[str, ...]) -> bool:
    """Whether a compiler makes a shared library with these flags."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("int probe() { return 0; }\n")
        command = [*compiler, *flags, "-fPIC", "-shared", str(source), "-o", f"{source}.so"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def openmp(compiler: tuple[str, ...]) -> list[str]:
    """The flag that makes loops parallel, where the compiler has it."""
    return ["-fopenmp"] if accepted(compiler, ("-fopenmp",)) else []


def flags_of(source: str, compiler: tuple[str, ...]) -> list[str]:
    """Instruction-set flags of one file."""
    stem = Path(source).stem
    for suffix, flags in SUFFIX_FLAGS.items():
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        if stem.endswith(suffix) and x86 and accepted(compiler, tuple(flags)):
            return flags
    return []


def find_nvcc() -> str | None:
    """Path of nvcc: under CUDA_HOME, or on the search path."""
    home = os.environ.get("CUDA_HOME")
    return (shutil.which("nvcc", path=f"{home}/bin") if home else None) or shutil.which("nvcc")


def static_cudart(nvcc: str) -> str | None:
    """Find the folder of the static CUDA runtime, asked of nvcc: its own place need not tell."""
    command = [nvcc, "--dryrun", "-o", "probe", str(CUDA / "topk_mean.cu")]
    plan = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    for folder in re.findall(r'"?-L([^"\s]+)', plan):
        if Path(folder, "libcudart_static.a").is_file():
            return str(folder)
    return None


def wished(variable: str) -> str:
    """Whether a part is to be left out (0), has to be built (1), or is built where it can be."""
    wish = os.environ.get(variable, "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"{variable}: expected 0, 1 or nothing, got {wish!r}")
    return wish


def ort_extension() -> list[Extension]:
    """Operators for onnxruntime: none with ROBUSTAD_ORT_OPS=0, an error if =1 cannot be.

    A library that onnxruntime loads and Python never imports. It takes onnxruntime's threads, so it
    goes without OpenMP, which a machine that only runs files may lack.
    """
    wish = wished("ROBUSTAD_ORT_OPS")
    kernels = [CSRC / "cpu_features.cpp", *CSRC.glob("cosine_nn*.cpp")]
    extension = Extension(
        ORT_OPS,
        sorted(str(path) for path in (*kernels, *ORT.glob("*.cpp"))),
        include_dirs=[str(CSRC)],
        depends=sorted(str(path) for folder in (CSRC, ORT) for path in folder.glob("*.h")),
        language="c++",
        extra_compile_args=["-std=c++17", "-O3", *CORE, "-Wno-unknown-pragmas"],
        extra_link_args=["-pthread"],
        optional=wish != "1",
    )
    return [] if wish == "0" else [extension]


def cuda_extension() -> list[Extension]:
    """`robustad._C_cuda`: none without nvcc or with ROBUSTAD_CUDA=0, an error if =1 cannot be."""
    wish = wished("ROBUSTAD_CUDA")
    nvcc = find_nvcc()
    cudart = static_cudart(nvcc) if nvcc and wish != "0" else None
    if wish == "1" and not cudart:
        lack = f"no libcudart_static.a where {nvcc} links" if nvcc else "no nvcc"
        raise SystemExit(f"ROBUSTAD_CUDA=1: found {lack}; set CUDA_HOME, or ROBUSTAD_CUDA=0")
    if wish == "0" or not cudart:
        return []
    extension = Pybind11Extension(
        "robustad._C_cuda",
        sorted(str(path) for end in ("*.cpp", "*.cu") for path in CUDA.glob(end)),
        include_dirs=[str(CSRC)],
        depends=sorted(str(path) for path in CUDA.glob("*.h")),
        cxx_std=17,
        library_dirs=[cudart],
        libraries=["cudart_static", "dl", "pthread", "rt"],
        extra_compile_args=["-O3"],
    )
    extension.optional = wish != "1"  # a CUDA that cannot compile it is as good as none
    return [extension]


class BuildWithFlags(build_ext):
    """Compiles each file with the flags of its instruction set, and `.cu` files with nvcc."""

    def build_extensions(self) -> None:
        """Hook into the compiler; it has one set of flags for all files."""
        compiler: Any = self.compiler
        compile_one = compiler._compile
        command = tuple(getattr(compiler, "compiler_cxx", None) or compiler.compiler_so)
        compiler.src_extensions.append(".cu")
        nvcc = find_nvcc()

        def compile_with_flags(
            obj: str,
            src: str,
            ext: str,
            cc_args: list[str],
            postargs: list[str],
            pp_opts: list[str],
        ) -> None:
            if ext == ".cu":
                flags = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", *GPUS]
                self.spawn([nvcc, *flags, f"-I{CSRC}", "-c", src, "-o", obj])
            else:
                flags = [*postargs, *flags_of(src, command)]
                compile_one(obj, src, ext, cc_args, flags, pp_opts)

        compiler._compile = compile_with_flags
        for extension in self.extensions:
            if extension.name != ORT_OPS:
                extension.extra_compile_args = [*extension.extra_compile_args, *openmp(command)]
                extension.extra_link_args = [*extension.extra_link_args, *openmp(command)]
        self.parallel = None  # see build_extension
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        """Build in a folder of its own: the kernels are compiled for two libraries."""
        whole = self.build_temp
        self.build_temp = str(Path(whole, ext.name))
        try:
            super().build_extension(ext)
        finally:
            self.build_temp = whole


class Sanitize(Command):
    """Runs `csrc/tests/test_*.cpp` under the address and undefined-behaviour sanitizers."""

    user_options: list[tuple[str, str | None, str]] = []  # noqa: RUF012

    def initialize_options(self) -> None:
        """Nothing to set."""

    def finalize_options(self) -> None:
        """Nothing to check."""

    def run(self) -> None:
        """Compile the core without its bindings once, then each test on it."""
        compiler = tuple(shlex.split(os.environ.get("CXX", "g++")))
        flags = ["-std=c++17", f"-I{CSRC}", *CORE, "-Wall", "-Wextra", "-Werror", *SANITIZE]
        flags += ["-Wno-maybe-uninitialized"]  # GCC 12's own AVX-512 headers
        flags += openmp(compiler)
        folder = Path("build", "sanitize")
        folder.mkdir(parents=True, exist_ok=True)
        objects = []
        for source in sorted([*CSRC.glob("*.cpp"), *ORT.glob("*.cpp")]):
            if not source.stem.startswith("bindings"):
                objects.append(str(folder / f"{source.stem}.o"))
                own = flags_of(str(source), compiler)
                self.spawn([*compiler, *flags, *own, "-c", str(source), "-o", objects[-1]])
        tests = sorted((CSRC / "tests").glob("test_*.cpp"))
        for test in tests:
            program = str(folder / test.stem)
            self.spawn([*compiler, *flags, str(test), *objects, "-o", program])
            self.spawn([program])
        print(f"sanitize: {len(tests)} programs passed")


class SdistWithSources(sdist):
    """An sdist that also carries what setuptools would leave out: headers, tests, benchmarks."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy the declared files and the extra ones."""
        extra = [
            str(path)
            for folder in ("csrc", "benchmarks", "tests", "docs", "kernels")
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        ]
        super().make_release_tree(base_dir, sorted({*files, *extra, "Makefile", "CHANGELOG.md"}))


setup(
    ext_modules=[
        Pybind11Extension(
            "robustad._C",
            sorted(str(path) for path in CSRC.glob("*.cpp")),
            include_dirs=[str(CSRC)],
            depends=sorted(str(path) for path in CSRC.glob("*.h")),
            cxx_std=17,
            extra_compile_args=["-O3", *CORE],
        ),
        *ort_extension(),
        *cuda_extension(),
    ],
    cmdclass={"build_ext": BuildWithFlags, "sdist": SdistWithSources, "sanitize": Sanitize},
)
