"""docs/consumers/cpp, the C++ example, against robustad.runtime."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PNG_MISSING = "PNG needs libpng"


@pytest.fixture(scope="session")
def compiler():
    found = shutil.which("g++")
    if found is None or shutil.which("make") is None:
        pytest.skip("needs g++ and make")
    return found


@pytest.fixture(scope="session")
def library():
    """onnxruntime's library, which pip's package brings along."""
    folder = Path(importlib.util.find_spec("onnxruntime").origin).parent / "capi"
    found = sorted(folder.glob("libonnxruntime.so.*"))
    if not found:
        pytest.skip("needs an onnxruntime package with libonnxruntime.so.*")
    return found[-1]


@pytest.fixture(scope="session")
def program(source, compiler, tmp_path_factory):
    """The program, built without onnxruntime's header and without a warning."""
    return build(source, compiler, tmp_path_factory.mktemp("build"))


def build(source, compiler, folder, *more):
    flags = "-O1 -Wpedantic -Wshadow -Wconversion -Werror"
    command = ["make", "-s", "-j2", f"CXX={compiler}", f"CXXFLAGS={flags}", f"BUILD={folder}"]
    done = subprocess.run(
        [*command, *more], cwd=source / "cpp", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder / "score"


@pytest.fixture(scope="session")
def score(program, library, run):
    """Run the program."""
    command = [program, "--library", library, "--threads", "1"]
    return lambda *given, **more: run([*command, *given], **more)


@pytest.fixture(scope="session")
def with_png(score, exported, png_images):
    """Skips where the program was built without libpng."""
    errors = score(exported, png_images[0]).errors
    if any(PNG_MISSING in one for one in errors):
        pytest.skip("needs libpng with its header")


@pytest.mark.parametrize(
    "kind", ["calibrated", "entropy", "conformal", "everything", "uncalibrated"]
)
def test_the_runtimes_numbers_and_verdicts(score, variants, plain_images, check_same, kind):
    ran = score(variants[kind], *plain_images)
    verdicts = check_same(ran, variants[kind], plain_images)
    assert (verdicts == {"uncalibrated"}) == (kind == "uncalibrated")
    assert len(verdicts) >= 2 or kind == "uncalibrated"


@pytest.mark.usefixtures("with_png")
def test_png_files(score, exported, png_images, check_same):
    check_same(score(exported, *png_images), exported, png_images)


def test_another_threshold(score, variants, plain_images, check_same):
    path = variants["calibrated"]
    found = [
        check_same(score("--threshold", at, path, *plain_images), path, plain_images, threshold=at)
        for at in (0.05, 0.5, 0.95)
    ]
    assert found == [{"reject"}, {"accept", "reject"}, {"accept"}]


def test_tensors_in_a_file_beside_it(score, external, plain_images, check_same):
    check_same(score(external, *plain_images), external, plain_images)


def test_the_golden_image(score, edited, exported, plain_images, check_refused):
    image = plain_images[0]
    assert score("--check", exported, image).code == 0
    golden = json.loads(_metadata(exported))["golden"]
    outputs = golden["outputs"] | {"patch_scores_max": golden["outputs"]["patch_scores_max"] + 0.1}
    other = edited("other_golden.onnx", golden=golden | {"outputs": outputs})
    check_refused(score("--check", other, image), other, "off the file's golden outputs")
    assert score(other, image).code == 0
    unknown = edited("unknown_golden.onnx", golden=golden | {"recipe": "new"})
    check_refused(score("--check", unknown, image), unknown, "holds no golden image known here")


def _metadata(path):
    import onnx

    return onnx.load(path).metadata_props[0].value


def test_names_from_standard_input(score, exported, plain_images, bad_images, check_same):
    names = "".join(f"{one}\n" for one in plain_images)
    check_same(score(exported, "-", stdin=names), exported, plain_images)
    ran = score(exported, "-", stdin=f"{bad_images[0][0]}\n{plain_images[0]}")
    assert (ran.code, len(ran.errors), len(ran.lines)) == (2, 1, 1)
    assert score(exported, "-") == (0, [], [])


def test_other_models_are_refused(score, bad_models, plain_images, check_refused):
    for path, message in bad_models:
        ran = score(path, plain_images[0])
        check_refused(ran, path, message)
        assert ran.lines == []


def test_an_image_that_cannot_be_scored_stops_no_other(score, exported, bad_images, plain_images):
    bad = [path for path, _ in bad_images]
    ran = score(exported, plain_images[0], *bad, plain_images[1])
    assert ran.code == 2
    assert [line["name"] for line in ran.lines] == [str(one) for one in plain_images[:2]]
    for (path, message), error in zip(bad_images, ran.errors, strict=True):
        assert error.startswith(f"{path}: ")
        assert message in error


@pytest.mark.usefixtures("with_png")
def test_damaged_png_files_are_refused(score, exported, damaged_png):
    ran = score(exported, *damaged_png)
    assert (ran.code, ran.lines) == (2, [])
    for path, error in zip(damaged_png, ran.errors, strict=True):
        assert error.startswith(f"{path}: cannot be read as an image: ")


def test_a_file_of_one_size_takes_no_other(score, edited, exported, plain_images, check_refused):
    contract = json.loads(_metadata(exported))["input"]
    path = edited("fixed.onnx", input=contract | {"height": 48, "width": 64})
    sizes = {"0.ppm": True, "3.ppm": False, "4.ppm": True}
    for image in plain_images:
        if image.name not in sizes:
            continue
        ran = score(path, image)
        if sizes[image.name]:
            assert ran.code == 0, ran
        else:
            check_refused(ran, image, "prepared to 48 x 48 pixels, but")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "usage: "),
        (["part.onnx"], "usage: "),
        (["--threshold", "1", "part.onnx", "a.png"],
         "--threshold: expected a probability in (0, 1), got '1'"),
        (["--threshold", "x", "part.onnx", "a.png"], "--threshold: expected a probability"),
        (["--threads", "0", "part.onnx", "a.png"], "--threads: expected an integer"),
        (["--threads", "2.5", "part.onnx", "a.png"], "--threads: expected an integer"),
        (["--thresh", "0.5", "part.onnx", "a.png"], "--thresh: no such option; usage: "),
        (["part.onnx", "--threshold"], "--threshold: expected a value; usage: "),
    ],
)  # fmt: skip
def test_usage(score, given, message):
    ran = score(*given)
    assert (ran.code, ran.lines) == (2, [])
    [error] = ran.errors
    assert message in error


def test_files_that_need_more_than_this_program_are_refused(
    score, edited, exported, plain_images, check_refused
):
    contract = json.loads(_metadata(exported))["input"]
    for name, fields, message in (
        ("older.onnx", {"schema_version": 2}, "older robustad (metadata version 2)"),
        ("floats.onnx", {"input": contract | {"dtype": "float32", "layout": "NCHW"}},
         'export it with input="uint8_nhwc"'),
        ("verdicts.onnx", {"verdicts": [1]}, "damaged: verdicts is no list of texts"),
        ("square.onnx", {"geometry": {"size": 48, "multiple": 8, "square": 1}},
         "damaged: geometry.square is neither true nor false"),
        ("size.onnx", {"geometry": {"size": 4, "multiple": 8, "square": True}},
         "damaged: geometry has a size below its multiple"),
        ("lacks.onnx", {"geometry": {"size": 48, "square": True}}, "lacks geometry.multiple"),
        ("half.onnx", {"golden": {"recipe": "quadratic-256", "height": 0.5}},
         "damaged: golden.height is no integer >= 1"),
    ):  # fmt: skip
        path = edited(name, **fields)
        check_refused(score(path, plain_images[0]), path, message)


def test_texts_of_metadata_are_read_as_json_has_them(score, edited, plain_images):
    names = ['gut \u00fc \U0001f600 " \\ \n \u0001', "b", "c", "d"]
    path = edited("names.onnx", verdicts=names, config={"nested": [[{"a": -1.5e-3}], [], {}]})
    ran = score("--threshold", "0.99", path, *plain_images[:1])
    assert ran.errors == []
    assert ran.lines[0]["verdict"] == names[0]


@pytest.mark.parametrize(
    "text",
    ['{"a": 1', '{"a" 1}', "[1,]", '{"a": 01}', '"\\x"', '"\\ud800"', '"\t"', "nul", "1 2",
     "[" * 100, "-", "1.", "1e", ""],
)  # fmt: skip
def test_what_is_no_json(score, edited, plain_images, check_refused, text):
    def put(model):
        model.metadata_props[0].value = text

    path = edited("no_json.onnx", by_hand=put)
    ran = score(path, plain_images[0])
    check_refused(ran, path, "its robustad metadata is no JSON: ")


def test_other_libraries_are_refused(program, run, exported, plain_images, tmp_path):
    text = tmp_path / "text.so"
    text.write_text("no library")
    for path, message in (
        (tmp_path / "absent.so", "cannot be loaded: "),
        (text, "cannot be loaded: "),
        ("libm.so.6", "libm.so.6: not onnxruntime's library"),
    ):
        ran = run([program, "--library", path, exported, plain_images[0]])
        assert ran.code == 2
        [error] = ran.errors
        assert error.startswith(f"{path}: ")
        assert message in error


def test_without_libpng(
    source, compiler, program, library, run, exported, png_images, plain_images, tmp_path
):
    folder = tmp_path / "build"
    shutil.copytree(program.parent, folder)  # only what differs is compiled again
    for name in ("png.o", "score"):
        (folder / name).unlink()
    program = build(source, compiler, folder, "PNG=no")
    ran = run([program, "--library", library, exported, png_images[0], plain_images[0]])
    assert ran.code == 2
    assert [line["name"] for line in ran.lines] == [str(plain_images[0])]
    [error] = ran.errors
    assert error.startswith(f"{png_images[0]}: {PNG_MISSING}")


def test_the_declared_interface_is_onnxruntimes(source, compiler):
    """With the header of an onnxruntime release: ROBUSTAD_ORT_INCLUDE names its folder."""
    folder = os.environ.get("ROBUSTAD_ORT_INCLUDE")
    if not folder:
        pytest.skip("needs ROBUSTAD_ORT_INCLUDE")
    flags = ["-std=c++17", "-fsyntax-only", "-Wno-ignored-attributes", f"-I{folder}"]
    subprocess.run([compiler, *flags, source / "cpp" / "check_subset.cpp"], check=True)
    build_folder = ["-DWITH_ORT_HEADER", source / "cpp" / "session.cpp"]
    subprocess.run([compiler, *flags, *build_folder], check=True)
