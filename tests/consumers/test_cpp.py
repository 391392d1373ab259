"""What only the C++ example does: see test_programs.py for what both do."""

import json
import os
import shutil
import subprocess

import onnx
import pytest


def test_files_that_need_more_than_this_program_are_refused(
    cpp, edited, exported, plain_images, check_refused
):
    contract = json.loads(onnx.load(exported).metadata_props[0].value)["input"]
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
        check_refused(cpp(path, plain_images[0]), path, message)


def test_texts_of_metadata_are_read_as_json_has_them(cpp, edited, plain_images):
    names = ['gut \u00fc \U0001f600 " \\ \n \u0001', "b", "c", "d"]
    path = edited("names.onnx", verdicts=names, config={"nested": [[{"a": -1.5e-3}], [], {}]})
    ran = cpp("--threshold", "0.99", path, *plain_images[:1])
    assert ran.errors == []
    assert ran.lines[0]["verdict"] == names[0]


@pytest.mark.parametrize(
    "text",
    ['{"a": 1', '{"a" 1}', "[1,]", '{"a": 01}', '"\\x"', '"\\ud800"', '"\t"', "nul", "1 2",
     "[" * 100, "-", "1.", "1e", ""],
)  # fmt: skip
def test_what_is_no_json(cpp, edited, plain_images, check_refused, text):
    def put(model):
        model.metadata_props[0].value = text

    path = edited("no_json.onnx", by_hand=put)
    ran = cpp(path, plain_images[0])
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


def test_without_libpng(build, program, library, run, exported, png_images, plain_images, tmp_path):
    folder = tmp_path / "build"
    shutil.copytree(program.parent, folder)  # only what differs is compiled again
    for name in ("png.o", "score"):
        (folder / name).unlink()
    program = build(folder, "PNG=no")
    ran = run([program, "--library", library, exported, png_images[0], plain_images[0]])
    assert ran.code == 2
    assert [line["name"] for line in ran.lines] == [str(plain_images[0])]
    [error] = ran.errors
    assert error.startswith(f"{png_images[0]}: PNG needs libpng")


def test_the_declared_interface_is_onnxruntimes(source, compiler):
    """With the header of an onnxruntime release: ROBUSTAD_ORT_INCLUDE names its folder."""
    folder = os.environ.get("ROBUSTAD_ORT_INCLUDE")
    if not folder:
        pytest.skip("needs ROBUSTAD_ORT_INCLUDE")
    flags = ["-std=c++17", "-fsyntax-only", "-Wno-ignored-attributes", f"-I{folder}"]
    subprocess.run([compiler, *flags, source / "cpp" / "check_subset.cpp"], check=True)
    build_folder = ["-DWITH_ORT_HEADER", source / "cpp" / "session.cpp"]
    subprocess.run([compiler, *flags, *build_folder], check=True)
