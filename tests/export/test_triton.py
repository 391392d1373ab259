import json
import re

import numpy as np
import onnx
import pytest

from robustad.errors import InputError, StateError
from robustad.export import write_triton
from robustad.runtime.golden import golden_image
from robustad.runtime.integrity import manifest_file, manifest_text

# Fields of Triton's ModelConfig that are written, and what they hold: a message, or a scalar's
# type. Taken from Triton's documentation of model configurations.
TENSOR = {"name": str, "data_type": "TYPE", "dims": [int], "reshape": {"shape": [int]}}
SCHEMA = {
    "name": str,
    "backend": str,
    "default_model_filename": str,
    "max_batch_size": int,
    "input": TENSOR,
    "output": TENSOR,
    "instance_group": {"count": int, "kind": "KIND", "gpus": [int]},
    "dynamic_batching": {"max_queue_delay_microseconds": int},
    "version_policy": {"latest": {"num_versions": int}},
    "model_warmup": {
        "name": str,
        "batch_size": int,
        "inputs": {
            "key": str,
            "value": {"data_type": "TYPE", "dims": [int], "input_data_file": str},
        },
    },
    "parameters": {"key": str, "value": {"string_value": str}},
    "model_operations": {"op_library_filename": [str]},
}
ONCE = {"name", "backend", "max_batch_size", "dynamic_batching", "version_policy"}
TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[A-Za-z_][A-Za-z_0-9]*|-?[0-9.]+|[{}\[\]:,]|$)')


def parse(text):
    """A small reader of protobuf's text format that knows nothing of the writer."""
    tokens, place = [], 0
    while place < len(text):
        found = TOKEN.match(text, place)
        assert found, f"no token at {text[place : place + 20]!r}"
        tokens.append(found[1])
        place = found.end()
    tokens = [token for token in tokens if token]
    message, rest = _message(tokens, SCHEMA)
    assert rest == []
    return message


def _message(tokens, schema):
    message = {}
    while tokens and tokens[0] != "}":
        name, tokens = tokens[0], tokens[1:]
        assert name in schema, f"unknown field {name}"
        kind = schema[name]
        if isinstance(kind, dict):
            if tokens[0] == ":":
                tokens = tokens[1:]
            assert tokens[0] == "{"
            value, tokens = _message(tokens[1:], kind)
            assert tokens[0] == "}"
            tokens = tokens[1:]
        else:
            assert tokens[0] == ":"
            value, tokens = _scalar(tokens[1:], kind)
        message.setdefault(name, []).append(value)
    return message, tokens


def _scalar(tokens, kind):
    if isinstance(kind, list):
        assert tokens[0] == "["
        end = tokens.index("]")
        inner = tokens[1:end]
        assert inner[1::2] == [","] * (len(inner) // 2)
        return [kind[0](token) for token in inner[::2]], tokens[end + 1 :]
    token = tokens[0]
    if kind is str:
        assert token[0] == '"'
        return json.loads(token), tokens[1:]
    if kind is int:
        return int(token), tokens[1:]
    assert token.startswith(kind + "_"), token
    return token, tokens[1:]


def config_of(folder):
    config = parse((folder / "config.pbtxt").read_text())
    assert all(len(config[name]) == 1 for name in ONCE)
    return config


def test_a_repository(masked, tmp_path):
    folder = write_triton(masked.path, tmp_path, name="screws", max_batch=4, threads=2)
    assert folder == tmp_path / "screws"
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert files == ["1", "1/model.onnx", "config.pbtxt", "warmup", "warmup/golden"]
    assert (folder / "1" / "model.onnx").read_bytes() == masked.path.read_bytes()
    config = config_of(folder)
    assert config["name"] == ["screws"]
    assert config["backend"] == ["onnxruntime"]
    assert config["max_batch_size"] == [4]
    assert config["instance_group"] == [{"count": [1], "kind": ["KIND_AUTO"]}]
    assert config["dynamic_batching"] == [{"max_queue_delay_microseconds": [2000]}]
    parameters = {
        entry["key"][0]: entry["value"][0]["string_value"][0] for entry in config["parameters"]
    }
    assert parameters["robustad_threshold"] == "0.4"
    assert parameters["intra_op_thread_count"] == "2"


def test_tensors_are_those_of_the_file(masked, resnet, tmp_path):
    for exported, dims in ((masked, [3, -1, -1]), (resnet, [3, 64, 64])):
        folder = write_triton(exported.path, tmp_path)
        config = config_of(folder)
        graph = onnx.load(exported.path).graph
        # the overridable calibration has defaults, and is no input that a request must bring
        assert [entry["name"] for entry in config["input"]] == [["image"]]
        assert config["input"][0]["dims"] == [dims]
        assert config["input"][0]["data_type"] == ["TYPE_FP32"]
        assert [entry["name"][0] for entry in config["output"]] == [o.name for o in graph.output]
        for entry, value in zip(config["output"], graph.output, strict=True):
            shape = value.type.tensor_type.shape.dim[1:]
            sizes = [dim.dim_value or -1 for dim in shape]
            if sizes:
                assert entry["dims"] == [sizes]
                assert "reshape" not in entry
            else:
                assert entry["dims"] == [[1]]
                assert entry["reshape"] == [{"shape": [[]]}]


def test_the_warm_up_is_the_golden_image(masked, tmp_path):
    folder = write_triton(masked.path, tmp_path, max_batch=6)
    warmups = config_of(folder)["model_warmup"]
    assert [warmup["batch_size"] for warmup in warmups] == [[1], [6]]
    for warmup in warmups:
        [entry] = warmup["inputs"]
        [value] = entry["value"]
        assert entry["key"] == ["image"]
        [dims] = value["dims"]
        content = (folder / "warmup" / value["input_data_file"][0]).read_bytes()
        image = np.frombuffer(content, np.float32).reshape(dims)
        np.testing.assert_array_equal(image, golden_image(*dims[1:])[0])
    assert len(config_of(write_triton(masked.path, tmp_path, max_batch=1))["model_warmup"]) == 1


def test_versions_side_by_side(masked, vit, tmp_path):
    write_triton(masked.path, tmp_path, name="part")
    folder = write_triton(vit.path, tmp_path, name="part", version=2)
    assert (folder / "1" / "model.onnx").read_bytes() == masked.path.read_bytes()
    assert (folder / "2" / "model.onnx").read_bytes() == vit.path.read_bytes()
    write_triton(masked.path, tmp_path, name="part", version=2)
    assert (folder / "2" / "model.onnx").read_bytes() == masked.path.read_bytes()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_tensors_beside_the_file_come_along(masked, tmp_path):
    path = tmp_path / "large.onnx"
    onnx.save(
        onnx.load(masked.path), path, save_as_external_data=True, location="large.onnx.data",
        size_threshold=100,
    )  # fmt: skip
    folder = write_triton(path, tmp_path / "repository")
    names = sorted(entry.name for entry in (folder / "1").iterdir())
    assert names == ["large.onnx.data", "model.onnx"]
    onnx.load(folder / "1" / "model.onnx")  # finds them


def test_where_instances_run(masked, tmp_path):
    def group(**options):
        [found] = config_of(write_triton(masked.path, tmp_path, **options))["instance_group"]
        return found

    assert group(kind="cpu", instances=3) == {"count": [3], "kind": ["KIND_CPU"]}
    assert group(kind="gpu") == {"count": [1], "kind": ["KIND_GPU"]}
    assert group(gpus=[0, 2]) == {"count": [1], "kind": ["KIND_GPU"], "gpus": [[0, 2]]}


def test_operators_of_our_own(masked, tampered, tmp_path):
    def use_them(model):
        model.opset_import.append(onnx.helper.make_opsetid("robustad", 1))

    path = tampered(masked.path, use_them)
    library = "/opt/robustad/_ort_ops.so"
    config = config_of(write_triton(path, tmp_path, custom_ops_library=library))
    assert config["model_operations"] == [{"op_library_filename": [[f'"{library}"']]}]
    for wrong in (None, "_ort_ops.so"):
        with pytest.raises(InputError, match=f"expected the absolute path .* server, got {wrong}"):
            write_triton(path, tmp_path, custom_ops_library=wrong)
    with pytest.raises(InputError, match=r"the file uses none of it, got /opt/robustad"):
        write_triton(masked.path, tmp_path, custom_ops_library=library)
    assert "model_operations" not in config_of(write_triton(masked.path, tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a/b"}, "name: expected letters, digits"),
        ({"name": ""}, "name: expected letters, digits"),
        ({"version": 0}, "version: expected >= 1, got 0"),
        ({"max_batch": 0}, "max_batch: expected >= 1, got 0"),
        ({"instances": 0}, "instances: expected >= 1, got 0"),
        ({"max_queue_delay": -1.0}, "max_queue_delay: expected seconds >= 0, got -1.0"),
        ({"kind": "tpu"}, "kind: expected one of auto, cpu, gpu, got 'tpu'"),
        ({"gpus": []}, "gpus: expected numbers of GPUs"),
        ({"gpus": [0], "kind": "cpu"}, "gpus: expected numbers of GPUs, and not kind='cpu'"),
        ({"threads": 0}, "threads: expected >= 1, got 0"),
    ],
)
def test_refused(masked, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        write_triton(masked.path, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_served(masked, tmp_path, tampered):
    with pytest.raises(InputError, match="no such ONNX file"):
        write_triton(tmp_path / "x.onnx", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: expected a folder, got a file"):
        write_triton(masked.path, tmp_path / "file")

    def forget(model):
        del model.metadata_props[:]

    with pytest.raises(StateError, match="not one exported by robustad"):
        write_triton(tampered(masked.path, forget), tmp_path)
    path = tampered(masked.path, lambda model: None)
    manifest_file(path).write_text(
        manifest_text([masked.path]).replace(masked.path.name, path.name)
    )
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(StateError, match="changed or truncated"):
        write_triton(path, tmp_path / "repository")
