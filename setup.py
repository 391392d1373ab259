"""Builds the C++ core; everything else is declared in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.sdist import sdist

CSRC = Path("csrc")


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
            extra_compile_args=["-O3", "-fvisibility=hidden"],
        )
    ],
    cmdclass={"sdist": SdistWithSources},
)
