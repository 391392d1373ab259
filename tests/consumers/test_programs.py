"""Both example programs against robustad.runtime: the same numbers, the same refusals."""

import json

import onnx
import pytest

PNG_MISSING = "PNG needs libpng"


@pytest.fixture(params=["node", "cpp"], scope="session")
def score(request):
    """Run one of the programs."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def with_png(score, exported, png_images):
    """Skips where the C++ program was built without libpng."""
    errors = score(exported, png_images[0]).errors
    if any(PNG_MISSING in one for one in errors):
        pytest.skip("needs libpng with its header")


@pytest.fixture(scope="session")
def external(exported, tmp_path_factory):
    """The same file with its large tensors in a `.data` beside it."""
    path = tmp_path_factory.mktemp("external") / "part.onnx"
    onnx.save(onnx.load(exported), path, save_as_external_data=True, location="part.onnx.data",
              size_threshold=1000)  # fmt: skip
    assert (path.parent / "part.onnx.data").stat().st_size > 0
    return path


@pytest.fixture(scope="session")
def bad_models(exported, edited, tmp_path_factory):
    """Files that are no detectors of this version, and what is to be said of each."""
    folder = tmp_path_factory.mktemp("bad models")
    whole = exported.read_bytes()
    (folder / "text.onnx").write_bytes(b"hello, this is no model")
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.onnx").write_bytes(b"")

    def forget(model):
        del model.metadata_props[:]

    def no_json(model):
        model.metadata_props[0].value = '{"schema_version": 3,'

    cannot = "not an ONNX file that can be run: "
    return [
        (folder / "absent.onnx", "no such file"),
        (folder, "expected a file, got a folder"),
        (folder / "text.onnx", cannot),
        (folder / "cut.onnx", cannot),
        (folder / "empty.onnx", cannot),
        (edited("foreign.onnx", by_hand=forget), "not one exported by robustad (no metadata)"),
        (edited("newer.onnx", schema_version=4), "newer robustad (metadata version 4, this one"),
        (edited("odd.onnx", schema_version="3"), "its robustad metadata has no schema_version"),
        (edited("no_json.onnx", by_hand=no_json), "its robustad metadata is no JSON: "),
        (edited("no_geometry.onnx", geometry=5), "metadata is damaged: geometry is"),
        (edited("ops.onnx", custom_ops=["robustad.CosineNearest"]), "export it without custom_ops"),
    ]


@pytest.fixture(scope="session")
def bad_images(tmp_path_factory, plain_images):
    """Files that are no images that can be scored, and what is to be said of each."""
    folder = tmp_path_factory.mktemp("bad images")
    whole = plain_images[0].read_bytes()
    files = {
        "cut.ppm": (whole[:-7], "truncated, 14400 bytes of pixels expected"),
        "none.ppm": (b"P6 x", "cannot be read as an image: no header"),
        "end.pgm": (b"P5 4 4 255", "truncated, 16 bytes of pixels expected"),
        "ten.ppm": (b"P6 1 1 1023\n" + bytes(6), "got up to 1023"),
        "strip.pgm": (b"P5 1 60000 255\n" + bytes(60000), "cut it into pieces"),
        "text.png": (b"hello", "not an image of a known kind; PNG, PPM and PGM are taken"),
        "empty.png": (b"", "not an image of a known kind"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    found = [(folder / name, message) for name, (_, message) in files.items()]
    return [*found, (folder, "expected a file, got a folder"), (folder / "no.png", "no such file")]


@pytest.fixture(scope="session")
def damaged_png(tmp_path_factory, png_images):
    """PNG files that broke on their way."""
    folder = tmp_path_factory.mktemp("damaged")
    whole = png_images[0].read_bytes()
    flipped = bytearray(whole)
    flipped[-40] ^= 1
    files = {"cut.png": whole[: len(whole) // 2], "flipped.png": bytes(flipped),
             "head.png": whole[:20], "signature.png": whole[:8]}  # fmt: skip
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return sorted(folder.iterdir())


def stored(path):
    return json.loads(onnx.load(path).metadata_props[0].value)


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
    golden = stored(exported)["golden"]
    outputs = golden["outputs"] | {"patch_scores_max": golden["outputs"]["patch_scores_max"] + 0.1}
    other = edited("other_golden.onnx", golden=golden | {"outputs": outputs})
    check_refused(score("--check", other, image), other, "off the file's golden outputs")
    assert score(other, image).code == 0
    unknown = edited("unknown_golden.onnx", golden=golden | {"recipe": "new"})
    check_refused(score("--check", unknown, image), unknown, "holds no golden image known here")


def test_fields_that_the_schema_lets_out(score, edited, plain_images, check_same):
    def shorten(model):
        [entry] = model.metadata_props
        kept = json.loads(entry.value)
        del kept["verdicts"], kept["custom_ops"]
        entry.value = json.dumps(kept)

    path = edited("short.onnx", by_hand=shorten)
    check_same(score(path, *plain_images), path, plain_images)


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
    contract = stored(exported)["input"]
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
        (["--thresh", "0.5", "part.onnx", "a.png"], "usage: "),
        (["part.onnx", "--threshold"], "usage: "),
    ],
)  # fmt: skip
def test_usage(score, given, message):
    ran = score(*given)
    assert (ran.code, ran.lines) == (2, [])
    [error] = ran.errors
    assert message in error
