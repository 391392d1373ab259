import json

import numpy as np
import pytest
import torch
from PIL import Image

from robustad.errors import DataError, InputError, StateError
from robustad.evaluation.attacked import attack_folder, file_name
from robustad.evaluation.audit import SCHEDULES, audit
from robustad.evaluation.audit_result import Audit
from robustad.evaluation.target import Target, load_target
from robustad.report.audit import write_audit_report

RADII = (2 / 255, 8 / 255)


def red(x):
    """Mean red: linear, so that the score moves by exactly eps."""
    return x[:, 0].mean(dim=(1, 2))


@pytest.fixture
def pictures(tmp_path):
    """A plain folder of images with mean red 100, 105, 120 and 150 of 255."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for level in (100, 105, 120, 150):
        pixels = np.full((8, 8, 3), 90, np.uint8)
        pixels[..., 0] = level
        Image.fromarray(pixels).save(folder / f"{level}.png")
    return folder


def test_flips_are_those_of_the_closed_form(pictures):
    found = audit(red, pictures, threshold=107.5 / 255, eps=RADII, image_size=8, attacks=["fgsm"])
    assert found.access == "white"
    assert not found.labelled
    assert found.complete
    by_name = {one.name: one for one in found.images}
    # taken for what the model says: 100 and 105 normal, 120 and 150 anomalous
    assert [by_name[f"{n}.png"].label for n in (100, 105, 120, 150)] == [0, 0, 1, 1]
    # 105 + 8 and 100 + 8 pass 107.5 at 8/255; nothing does at 2/255; 120 - 8 and 150 - 8 stay above
    flips = {name: one.flips_at for name, one in by_name.items()}
    assert flips == {"100.png": 8 / 255, "105.png": 8 / 255, "120.png": None, "150.png": None}
    assert (found.flipped(RADII[0]), found.flipped(RADII[1]), found.right) == (0, 2, 4)
    one = by_name["105.png"]
    assert one.worst_score == pytest.approx([107 / 255, 113 / 255], abs=1e-6)
    assert (one.flipped_by, one.flip_queries, one.queries) == ("fgsm", 1, [1, 2])
    assert found.level == "open"
    text = found.verdict()
    assert "2 of 4 right verdicts flip within 8/255, the first at 8/255" in text
    assert "1 queries an image at the median" in text


def test_an_image_that_fell_is_not_attacked_at_larger_radii(pictures):
    found = audit(
        red, pictures, threshold=107.5 / 255, eps=(4 / 255, 8 / 255), image_size=8,
        attacks=["fgsm", "pgd2"],
    )  # fmt: skip
    assert [(s.attack, s.images) for s in found.steps] == [
        ("fgsm", 4), ("fgsm", 3), ("pgd2", 3), ("pgd2", 2),
    ]  # fmt: skip
    fell = next(one for one in found.images if one.name == "105.png")
    assert fell.flips_at == 4 / 255


def test_scores_alone_are_attacked_as_a_black_box(pictures):
    def numbers(x):
        return x.numpy()[:, 0].mean(axis=(1, 2))

    found = audit(
        numbers, pictures, threshold=107.5 / 255, eps=RADII, image_size=8, attacks=["square400"]
    )
    assert found.access == "score"
    assert found.flipped(RADII[1]) >= 1
    assert {check.name: check.fired for check in found.checks}["zero_gradient"] is None
    assert all(step.backward == 0 for step in found.steps)


def test_verdicts_alone_are_attacked_by_decisions(pictures):
    def decides(x):
        return (x[:, 0].mean(dim=(1, 2)) > 107.5 / 255).numpy()

    found = audit(decides, pictures, eps=(8 / 255,), image_size=8, attacks=["hopskipjump300"])
    assert (found.access, found.threshold) == ("decision", 0.5)
    assert found.flipped(8 / 255) >= 1


def test_time_runs_out(pictures):
    now = iter(range(0, 100000, 30))
    found = audit(
        red, pictures, threshold=0.42, eps=RADII, image_size=8, batch_size=1, minutes=2,
        attacks=["fgsm", "pgd2", "pgd3"], clock=lambda: float(next(now)),
    )  # fmt: skip
    assert not found.complete
    assert found.steps
    assert "Time ran out" in found.verdict()


def test_without_a_threshold_only_the_push_is_told(pictures):
    found = audit(red, pictures, eps=RADII, image_size=8, attacks=["fgsm"])
    assert found.level == "unknown"
    assert "no threshold" in found.verdict()
    assert found.push(1) == pytest.approx(4 * found.push(0), rel=1e-3)


def test_a_model_that_holds_is_no_proof(pictures):
    found = audit(red, pictures, threshold=0.9, eps=(1 / 255,), image_size=8, attacks=["fgsm"])
    assert found.level == "held"
    assert "this is no proof" in found.verdict()


def test_a_detector_with_labels(redness, samples):
    found = audit(redness(), samples(0, 6), threshold=0.25, eps=RADII, attacks=["pgd3"])
    assert found.labelled
    assert [one.label for one in found.images] == [0, 0, 0, 1, 1, 1]
    assert len(found.sha256) == 64


def test_planted_noise_puts_the_verdict_in_doubt(redness, samples):
    class Noisy(redness):
        def patch_scores(self, x):
            scores = super().patch_scores(x)
            return scores + 0.05 * torch.randn_like(scores)

    found = audit(Noisy(), samples(0, 6), threshold=0.9, eps=RADII, attacks=["fgsm"])
    assert "Do not trust it: randomised" in found.verdict()


def test_json_and_report(pictures, tmp_path):
    found = audit(red, pictures, threshold=107.5 / 255, eps=RADII, image_size=8, attacks=["fgsm"])
    found.save(tmp_path / "a.json")
    assert Audit.load(tmp_path / "a.json") == found
    text = write_audit_report(found, tmp_path / "a.html").read_text()
    for part in ("The verdict can be flipped", "105.png", "2 of 4 right", "fgsm", "8/255", "held"):
        assert part in text
    document = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(document | {"schema_version": 2}))
    with pytest.raises(StateError, match="not an audit: schema_version"):
        Audit.load(tmp_path / "a.json")
    with pytest.raises(InputError, match="no such audit file"):
        Audit.load(tmp_path / "b.json")


def test_targets(monkeypatch, tmp_path):
    (tmp_path / "mymodel.py").write_text(
        "def score(x):\n    return x.mean(dim=(1, 2, 3))\nvalue = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    target = load_target("mymodel:score", image_size=8)
    assert isinstance(target, Target)
    assert target.patch_grid(8, 8) == (1, 1)
    assert float(target(torch.full((1, 3, 8, 8), 0.25))) == pytest.approx(0.25)
    patches = load_target(lambda x: x.mean(dim=1).flatten(1)[:, :12], image_size=8)
    assert patches.patch_grid(8, 8) == (3, 4)
    for model, message in (
        ("mymodel", "expected a .safetensors or .onnx file or module:callable"),
        ("mymodel:value", "to be callable, got int"),
        ("mymodel:missing", "cannot be imported"),
        ("no_such_module:f", "cannot be imported"),
        ("none.onnx", "no such model file"),
        ("none.safetensors", "no such detector file"),
    ):
        with pytest.raises(InputError, match=message):
            load_target(model)
    with pytest.raises(InputError, match="a wrapped model is not saved"):
        Target.from_config({}, {})


def test_schedules_hold_known_attacks_for_each_access(redness, samples):
    assert set(SCHEDULES) == {"white", "score", "decision"}
    found = audit(redness(), samples(0, 4), threshold=0.25, eps=(1 / 255,), minutes=0.02)
    assert found.planned[0] == "fgsm"


def test_bad_options(pictures, tmp_path):
    for eps in ((), (0.0,), (2.0,), (0.1, 0.1)):
        with pytest.raises(InputError, match=r"eps: expected different radii in \(0, 1\]"):
            audit(red, pictures, eps=eps)
    with pytest.raises(InputError, match="minutes: expected a time > 0, got 0"):
        audit(red, pictures, minutes=0)
    with pytest.raises(InputError, match="batch_size: expected >= 1"):
        audit(red, pictures, batch_size=0)
    with pytest.raises(DataError, match="expected a folder of images, got none"):
        audit(red, tmp_path / "nowhere")
    with pytest.raises(DataError, match="images: expected at least one"):
        audit(red, [])


def test_attacked_folders_are_saved_without_loss(pictures, tmp_path):
    from robustad.attacks.images import load_adversarial

    target = load_target(red, image_size=8)
    lines = attack_folder(target, pictures, tmp_path / "out", attack="fgsm", eps=8 / 255)
    saved = load_adversarial(tmp_path / "out")
    assert [line["name"] for line in lines] == ["100", "105", "120", "150"]
    for line in lines:
        assert line["score"] == pytest.approx(line["clean_score"] + 8 / 255, abs=1e-5)
    assert saved.about["attack"] == "fgsm"
    down = attack_folder(
        target, pictures, tmp_path / "down", attack="fgsm", eps=8 / 255, anomalous=True
    )
    assert down[0]["score"] < down[0]["clean_score"]
    assert file_name("test/hole (1)/003.png") == "test_hole _1__003"
