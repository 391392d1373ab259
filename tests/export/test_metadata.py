import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from robustad.export.metadata import (
    ArtefactMetadata,
    artefact_schema,
    describe,
    tensors_sha256,
    write_artefact_schema,
)
from robustad.runtime import golden_image
from robustad.runtime._metadata import SCHEMA_VERSION

DOCS = Path(__file__).parents[2] / "docs"


def test_schema_file_is_up_to_date(tmp_path):
    write_artefact_schema(tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_text() == artefact_schema()
    assert (DOCS / "artefact.schema.json").read_text() == artefact_schema(), (
        "run robustad.export.metadata.write_artefact_schema('docs/artefact.schema.json')"
    )


def test_schema_names_every_field_and_the_runtime_version():
    schema = json.loads(artefact_schema())
    assert set(schema["required"]) == set(ArtefactMetadata.model_fields)
    assert max(schema["properties"]["schema_version"]["enum"]) == SCHEMA_VERSION
    assert schema["additionalProperties"] is False


def test_hash_depends_on_name_type_shape_and_values():
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    same = {"b": torch.ones(2), "a": torch.arange(6.0)}
    assert tensors_sha256(base) == tensors_sha256(same)
    others = [
        {"c": torch.arange(6.0), "b": torch.ones(2)},
        {"a": torch.arange(6.0).double(), "b": torch.ones(2)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)},
        {"a": torch.arange(6.0), "b": torch.zeros(2)},
    ]
    assert len({tensors_sha256(tensors) for tensors in [base, *others]}) == 5


def test_description_survives_json_and_refuses_unknown_fields(masked):
    metadata = describe(masked.detector, (64, 96), evaluation={"attacks": [], "note": "none"})
    assert ArtefactMetadata.model_validate_json(metadata.model_dump_json()) == metadata
    assert metadata.evaluation.model_dump() == {"attacks": [], "note": "none"}
    with pytest.raises(ValidationError, match="extra"):
        ArtefactMetadata.model_validate({**metadata.model_dump(), "surprise": 1})


def test_golden_outputs_are_the_detectors(masked):
    detector = masked.detector
    golden = describe(detector, (64, 96), input="float_nchw").golden
    x = torch.from_numpy(golden_image(64, 96))
    patch_scores = detector.patch_scores(x)
    assert golden.outputs["score"] == pytest.approx(float(detector(x)[0]))
    assert golden.outputs["patch_scores_mean"] == pytest.approx(float(patch_scores.mean()))
    assert golden.outputs["patch_scores_max"] == pytest.approx(float(patch_scores.max()))


def test_golden_image_is_the_documented_formula():
    image = golden_image(30, 40)
    assert image.shape == (1, 3, 30, 40)
    for channel, row, column in ((0, 0, 0), (2, 29, 39), (1, 17, 5)):
        value = (row**2 + 2 * column**2 + 3 * row * column + 50 * channel) % 256 / 255
        assert image[0, channel, row, column] == pytest.approx(value, abs=1e-7)
