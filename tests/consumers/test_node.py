"""docs/consumers/node, the JavaScript example, against robustad.runtime."""

import json
import shutil

import pytest

from robustad.export import export_onnx


@pytest.fixture(scope="session")
def score(source, run):
    """Run score.mjs."""
    binary = shutil.which("node")
    if binary is None:
        pytest.skip("needs node")
    folder = source / "node"
    lock = json.loads((folder / "package-lock.json").read_text())
    wanted = lock["packages"]["node_modules/onnxruntime-node"]["version"]
    package = folder / "node_modules" / "onnxruntime-node" / "package.json"
    found = json.loads(package.read_text())["version"] if package.is_file() else None
    if found != wanted:
        pytest.skip(f"needs onnxruntime-node {wanted} in {folder.name}/, got {found}: "
                    "make node-engine")  # fmt: skip
    command = [binary, folder / "score.mjs", "--threads", "1"]
    return lambda *given, **more: run([*command, *given], **more)


@pytest.fixture(scope="session")
def floats(detector, tmp_path_factory):
    """The same detector in the default form, of prepared images."""
    return export_onnx(detector, tmp_path_factory.mktemp("floats") / "floats.onnx")


@pytest.mark.parametrize(
    "kind", ["calibrated", "entropy", "conformal", "everything", "uncalibrated"]
)
def test_the_runtimes_numbers_and_verdicts(score, variants, plain_images, check_same, kind):
    ran = score(variants[kind], *plain_images)
    verdicts = check_same(ran, variants[kind], plain_images)
    assert (verdicts == {"uncalibrated"}) == (kind == "uncalibrated")
    assert len(verdicts) >= 2 or kind == "uncalibrated"


def test_images_of_many_sizes_are_prepared_here(score, floats, plain_images, check_same):
    assert "reject" in check_same(score(floats, *plain_images), floats, plain_images)


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


def test_the_golden_image(score, edited, exported, floats, plain_images, check_refused):
    image = plain_images[0]
    for path in (exported, floats):
        assert score("--check", path, image).code == 0
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


def test_more_arguments_than_the_engine_bears(score, exported, plain_images):
    ran = score(exported, *plain_images[:1] * 2000)
    assert (ran.code, ran.lines) == (2, [])
    [error] = ran.errors
    assert error.startswith("2000 images: arguments of ")
    assert "give - and their names on standard input" in error


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
        (["--thresh", "0.5", "part.onnx", "a.png"], "--thresh"),
    ],
)  # fmt: skip
def test_usage(score, given, message):
    ran = score(*given)
    assert (ran.code, ran.lines) == (2, [])
    [error] = ran.errors
    assert message in error
