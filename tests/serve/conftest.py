import pytest

from robustad import runtime
from robustad.export import export_onnx


@pytest.fixture(scope="session")
def exported(exported, tmp_path_factory):
    """A file that takes prepared tensors, which the service offers to its clients then."""
    path = tmp_path_factory.mktemp("floats") / "floats.onnx"
    return exported._replace(path=export_onnx(exported.detector, path, input="float_nchw"))


@pytest.fixture(scope="session")
def model(exported):
    return runtime.load(exported.path, threads=1)
