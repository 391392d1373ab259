"""What is read of a file without an engine, beside the `onnx` package."""

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.errors import StateError
from robustad.runtime import _header
from robustad.runtime._header import read_header

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def model_of(metadata, opsets=(("", 20),)):
    graph = onnx.helper.make_graph([], "nothing", [], [])
    imports = [onnx.helper.make_opsetid(*one) for one in opsets]
    model = onnx.helper.make_model(graph, opset_imports=imports, producer_name="somebody")
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model.SerializeToString()


def test_an_exported_file(exported):
    header = read_header(exported.path)
    stored = onnx.load(exported.path, load_external_data=False)
    assert header.opsets == {one.domain: one.version for one in stored.opset_import}
    assert header.metadata == {one.key: one.value for one in stored.metadata_props}


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(TEXT, TEXT, max_size=4), st.integers(0, 2**31))
def test_any_metadata(tmp_path_factory, metadata, version):
    path = tmp_path_factory.mktemp("any") / "a.onnx"
    path.write_bytes(model_of(metadata, [("", 20), ("robustad", version)]))
    header = read_header(path)
    assert header.metadata == metadata
    assert header.opsets == {"": 20, "robustad": version}


def test_long_metadata_and_many_operator_sets(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(model_of({"robustad": "x" * 3_000_000, "": "é"}))
    assert read_header(path).metadata == {"robustad": "x" * 3_000_000, "": "é"}


def test_every_cut_is_told(tmp_path):
    content = model_of({"robustad": "{}" * 40}, [("", 20)])
    path = tmp_path / "a.onnx"
    whole = read_header_of(path, content)
    told = 0
    for length in range(len(content)):
        try:
            found = read_header_of(path, content[:length])
        except StateError as error:
            told += 1
            assert str(path) in str(error)  # noqa: PT017
        else:  # between two fields: a message, but a shorter one
            assert found != whole
    assert told > len(content) - 8


def read_header_of(path, content):
    path.write_bytes(content)
    return read_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no operator set"),
        (b"\x72\x05\x0a\x09abc", "it ends within a text"),
        (b"\x72\x03\x1a\x01a", "a damaged entry of the metadata"),
        (b"\x72\x02\x08\x01", "a damaged entry of the metadata"),
        (b"\x42\x03\x0a\x09a", "it ends within a text"),
        (b"\x42\x02\x18\x01", "a damaged operator set"),
        (b"\x72\xff\xff\xff\xff\x0f", "bytes expected, 6 there"),
        (b"\xff" * 12, "a number of more than 64 bits"),
        (b"\x0b", "no field of a model"),
    ],
)
def test_what_is_no_model(tmp_path, content, message):
    path = tmp_path / "a.onnx"
    with pytest.raises(StateError, match=rf"a\.onnx: not an ONNX file .*{message}"):
        read_header_of(path, content)


def test_no_more_is_read_than_a_field_may_have(tmp_path, monkeypatch):
    monkeypatch.setitem(_header.LONGEST, _header.METADATA_PROPS, 100)
    path = tmp_path / "a.onnx"
    with pytest.raises(StateError, match=r"a field of 1[0-9][0-9] bytes, expected 100 at most"):
        read_header_of(path, model_of({"robustad": "x" * 120}))
    assert read_header_of(path, model_of({"robustad": "x" * 60})).metadata["robustad"] == "x" * 60
