"""What only the JavaScript example does: see test_programs.py for what both do."""

import pytest

from robustad.export import export_onnx


@pytest.fixture(scope="session")
def floats(detector, tmp_path_factory):
    """The same detector in the default form, of prepared images."""
    return export_onnx(
        detector, tmp_path_factory.mktemp("floats") / "floats.onnx", input="float_nchw"
    )


def test_images_of_many_sizes_are_prepared_here(node, floats, plain_images, check_same):
    assert "reject" in check_same(node(floats, *plain_images), floats, plain_images)


def test_the_golden_image_of_prepared_images(node, floats, plain_images):
    assert node("--check", floats, plain_images[0]).code == 0


def test_more_arguments_than_the_engine_bears(node, floats, plain_images):
    ran = node(floats, *plain_images[:1] * 2000)
    assert (ran.code, ran.lines) == (2, [])
    [error] = ran.errors
    assert error.startswith("2000 images: arguments of ")
    assert "give - and their names on standard input" in error
