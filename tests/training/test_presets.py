import pytest
import yaml

from robustad.errors import InputError
from robustad.training import PRESETS, preset
from robustad.training.presets import to_yaml


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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.epoch=7", r"optimiser.epoch: there is no such field"),
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
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump([1, 2]))
    with pytest.raises(InputError, match="expected a mapping of fields, got list"):
        preset(path)
    path.write_text("a: [")
    with pytest.raises(InputError, match="not readable as YAML"):
        preset(path)
