"""Metadata as the page reads them, against onnxruntime's and the runtime's own."""

import json

import onnx
import pytest

from robustad import runtime

READ = """
const { readFileSync } = await import("node:fs");
const { inputForm, readMetadata } = await import(PAGE + "metadata.js");
print(cases.map(([path, name]) => {
  try {
    const found = readMetadata(readFileSync(path), name);
    return { found, form: inputForm(found) };
  } catch (error) {
    return { error: `${error.name}: ${error.message}` };
  }
}));
"""


def test_metadata_are_read(node, exported):
    found = node(READ, [(str(path), path.name) for path in exported])
    for path, one in zip(exported, found, strict=True):
        model = runtime.load(path, threads=1)
        assert one["found"] == model.metadata
        assert one["form"] == model.input_form


def edited(path, out, edit):
    model = onnx.load(path)
    edit(model)
    onnx.save(model, out)
    return out


def document(**changes):
    def edit(model):
        [entry] = model.metadata_props
        stored = json.loads(entry.value)
        for field, value in changes.items():
            if value is KeyError:
                del stored[field]
            else:
                stored[field] = value
        entry.value = json.dumps(stored)

    return edit


def text(value):
    def edit(model):
        model.metadata_props[0].value = value

    return edit


def opset(version):
    def edit(model):
        model.opset_import[0].version = version

    return edit


POLICY = {"threshold": 0.5, "entropy_threshold": None}
GEOMETRY = {"size": 48, "multiple": 8, "square": False}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda model: model.ClearField("metadata_props"), "not one exported by robustad"),
        (text("{"), "its robustad metadata is no JSON"),
        (text("[1]"), "has no schema_version"),
        (document(schema_version=4), "newer robustad (metadata version 4, this one reads up to 3)"),
        (document(schema_version="3"), "has no schema_version"),
        (document(geometry=KeyError), "lacks geometry"),
        (document(geometry=GEOMETRY | {"size": 0}), "damaged: geometry.size is 0"),
        (document(policy=POLICY | {"threshold": "x"}), 'damaged: policy.threshold is "x"'),
        (document(policy=POLICY | {"mood": 0.5}), "damaged: policy.mood is 0.5"),
        (document(patch_size=0.5), "damaged: patch_size is 0.5"),
        (document(input={"dtype": "int8", "layout": "NCHW"}), "damaged: input.dtype and"),
        (document(conformal={"normal": []}), "damaged: conformal.normal is []"),
        (document(custom_ops=["robustad.CosineNearest"]), "export it without custom_ops"),
        (opset(17), "operator set 17, expected 18 or newer"),
        (lambda model: model.ClearField("opset_import"), "it names no operator set"),
    ],
)
def test_other_files_are_refused(node, exported, tmp_path, edit, message):
    path = edited(exported.floats, tmp_path / "changed.onnx", edit)
    [found] = node(READ, [(str(path), "changed.onnx")])
    assert found["error"].startswith("InputError: changed.onnx: "), found
    assert message in found["error"]


def test_truncated_and_foreign_files_are_refused(node, exported, tmp_path):
    whole = exported.floats.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_bytes(b"hello, this is no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    cases = [(str(path), path.name) for path in sorted(tmp_path.glob("*.onnx"))]
    for (_, name), one in zip(cases, node(READ, cases), strict=True):
        assert one["error"].startswith(f"InputError: {name}: not an ONNX file that can be run: ")
