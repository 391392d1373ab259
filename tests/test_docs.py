"""The documents' examples run, and their figures are those of the committed result files."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_readme_example_runs(tmp_path, monkeypatch, capsys):
    from robustad import data
    from robustad.data.surfaces import Surfaces

    small = Surfaces(size=64, train=4, test_good=3, per_defect=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load", lambda name, category: small.load(category))
    first, training, second = python_blocks("README.md")
    names: dict[str, object] = {}
    exec(first.replace("image_size=256", "image_size=64"), names)
    clean, worst = map(float, capsys.readouterr().out.split())
    assert 0 <= worst <= clean <= 1
    tiny = {"network.image_size": 32, "optimiser.epochs": 1, "optimiser.repeats": 1}
    exec(training.replace('"robust", ', f'"fast", overrides={tiny}, '), names)
    assert (tmp_path / "runs" / "cloth" / "detector.safetensors").is_file()
    from PIL import Image

    Image.fromarray(small.load("cloth").test[0].image).save("part.png")
    exec(second, names)
    assert "'verdict'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("detector.md", 3),
        ("operators.md", 10),
        ("reproduce.md", 4),
        ("training.md", 3),
        ("robustness.md", 8),
        ("certificates.md", 30),
        ("defences.md", 8),
        ("guarantees.md", 20),
    ],
)
def test_examples_of_a_page_run(page, least):
    failed, tried = doctest.testfile(str(ROOT / "docs" / page), module_relative=False)
    assert tried > least
    assert failed == 0


def test_deployment_page_examples_run(tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for folder in ("good_parts", "new_parts"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            pixels = rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    failed, tried = doctest.testfile(
        str(ROOT / "docs" / "deploy.md"), module_relative=False, optionflags=flags
    )
    assert tried > 20
    assert failed == 0


def test_pseudo_anomalies_page_examples_run():
    failed, tried = doctest.testfile(
        str(ROOT / "docs" / "pseudo_anomalies.md"), module_relative=False
    )
    assert tried > 8
    assert failed == 0


@pytest.mark.parametrize("script", ["render_results.py", "render_performance.py"])
def test_figures_are_those_of_the_result_files(script):
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_names_every_test_folder_and_benchmark():
    text = (ROOT / "README.md").read_text()
    for path in [*(ROOT / "tests").iterdir(), *(ROOT / "benchmarks").glob("bench_*.py")]:
        if path.is_dir() and path.name != "__pycache__":
            assert f"tests/{path.name}/" in text, path.name
        elif path.name.startswith("bench_"):
            assert path.name in text, path.name
