import json

import pytest
import yaml

from robustad.errors import InputError
from robustad.training import PRESETS, preset
from robustad.training.presets import changed, fields, to_yaml


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole_and_survive_their_own_yaml(name, tmp_path):
    config = preset(name)
    assert config.preset == name
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(config))
    assert preset(path) == config


def test_the_published_values():
    paper, official = preset("paper"), preset("official")
    assert (paper.optimiser.lr, paper.optimiser.weight_decay) == (8e-4, 1e-5)
    assert paper.optimiser.epochs == 300
    assert paper.attack.eps == 8 / 255
    assert paper.attack.steps == 10
    assert (official.optimiser.weight_decay, official.optimiser.epochs) == (0.01, 1000)
    assert official.loss.reduction == "sum"
    assert official.attack.mode == "train"
    assert official.regulariser.layers == {"block 6": 0.005, "block 9": 0.01, "block 12": 0.05}


def test_overrides_in_both_forms():
    a = preset("fast", ["optimiser.epochs=7", "attack.objective=image", "optimiser.clip=null"])
    b = preset(
        "fast",
        {"optimiser.epochs": 7, "attack.objective": "image", "optimiser.clip": None},
    )
    assert a == b
    assert (a.optimiser.epochs, a.attack.objective, a.optimiser.clip) == (7, "image", None)


@pytest.mark.parametrize("name", PRESETS)
def test_one_layer_is_overridden_and_no_other(name):
    """Whether the preset's file names its layers or leaves them to the default."""
    before = preset(name).regulariser.layers
    after = preset(name, ["regulariser.layers.last=0.5"]).regulariser.layers
    assert after == before | {"last": 0.5}
    alone = preset(name, ["regulariser.layers={last: 0.5}"]).regulariser.layers
    assert alone == {"last": 0.5}


def test_a_radius_may_be_a_fraction():
    assert preset("robust", ["attack.eps=4/255"]).attack.eps == 4 / 255
    assert preset("robust", {"attack.step_size": "1 / 255"}).attack.step_size == 1 / 255


def test_every_field_can_be_overridden_on_the_command_line():
    """With the value it has: what YAML makes of its text is what comes back."""
    config = preset("robust")
    document = config.model_dump(mode="json")
    for path in fields(type(config)):
        value = document
        for name in path.split("."):
            value = value[name]
        assert preset("robust", [f"{path}={json.dumps(value)}"]) == config, path


def test_a_configuration_is_changed_without_a_file():
    config = changed(preset("fast"), ["seed=3"])
    assert (config.seed, config.preset) == (3, "fast")
    with pytest.raises(InputError, match=r"^configuration: seed: .* got -1$"):
        changed(config, {"seed": -1})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimiser.epoch=7",
            r"optimiser.epoch: .*; did you mean optimiser.epochs\?",
        ),
        ("optimizer.epochs=7", r"optimizer.epochs: .*; did you mean optimiser.epochs\?"),
        ("epochs=7", r"epochs: there is no such field; did you mean optimiser.epochs\?"),
        ("attack.obj=flip", r"attack.obj: .*; did you mean attack.objective\?"),
        ("network.bigbird.windows=3", r"windows: .*; did you mean network.bigbird.window\?"),
        ("weather=fine", r"override weather: there is no such field$"),
        ("network.layer_scale=abc", r"network.layer_scale: .*string as a number or 'model', got"),
        ("foreground.threshold=3", r"foreground.threshold: .*'otsu' or less than 1, got 3"),
        ("pseudo.size=[9,2]", r"preset fast: pseudo: size: expected .* got \(9, 2\)$"),
        ("attack.eps=8/0", r"attack.eps: .* got '8/0'"),
        ("optimiser.lr=.inf", r"optimiser.lr: .*finite"),
        ("regulariser.layers.last=.nan", r"regulariser.layers.last: .*finite"),
        ("optimiser.epochs=0", r"optimiser.epochs: .* greater than or equal to 1, got 0"),
        ("attack.objective=loud", r"attack.objective: .*'loud'"),
        ("optimiser.epochs", r"expected FIELD=VALUE, got 'optimiser.epochs'"),
        ("seed.x=1", r"seed is a single value, not a section"),
        ("seed=[1", r"override seed: not readable as YAML"),
    ],
)
def test_bad_overrides(override, message):
    base = ["seed=0"] if override.startswith("seed.") else []
    with pytest.raises(InputError, match=message):
        preset("fast", [*base, override])


def test_no_loss_at_all():
    zero = [f"loss.{name}=0" for name in ("normal", "anomalous")]
    with pytest.raises(InputError, match="at least one term"):
        preset("fast", [*zero, "attack.steps=0"])


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="expected one of paper, official, robust, fast or"):
        preset("slow")
    with pytest.raises(InputError, match=r"got 'robst'; did you mean robust\?"):
        preset("robst")
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump([1, 2]))
    with pytest.raises(InputError, match="expected a mapping of fields, got list"):
        preset(path)
    path.write_text("a: [")
    with pytest.raises(InputError, match="not readable as YAML"):
        preset(path)
