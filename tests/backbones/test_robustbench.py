"""Files as RobustBench and the `robustness` library publish them, made of timm's own tensors."""

import pytest
import timm
import torch

import robustad
from robustad.backbones import create
from robustad.backbones.robustbench import (
    IMAGENET,
    MODELS,
    NONE,
    VARIABLE,
    Entry,
    entry,
    locate,
    unwrapped,
)
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError, WeightsError


def state(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, **options).state_dict()


def buffers(mean, std):
    return [torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std)]


def normalised_model(tensors):
    """Of `nn.Sequential(normalize, model)`, RobustBench's own wrapper."""
    mean, std = buffers(*IMAGENET)
    return {"normalize.mean": mean, "normalize.std": std} | {
        f"model.{key}": value for key, value in tensors.items()
    }


def robustness_library(tensors):
    """With a normaliser of its own and a second copy of the network in the attacker."""
    mean, std = (value[0] for value in buffers((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    made = {"module.normalizer.new_mean": mean, "module.normalizer.new_std": std}
    for where in ("module.model.", "module.attacker.model."):
        made |= {f"{where}{key}": value for key, value in tensors.items()}
    made["module.attacker.normalize.new_mean"] = mean
    made["module.attacker.normalize.new_std"] = std
    return {"model": made, "epoch": 90}


LAYOUTS = {
    "torchvision": lambda tensors: tensors,
    "parallel": lambda tensors: {"state_dict": {f"module.{k}": v for k, v in tensors.items()}},
    "model": lambda tensors: {f"model.{key}": value for key, value in tensors.items()},
    "parallel model": lambda t: {"state_dict": {f"module.model.{k}": v for k, v in t.items()}},
    "normalised": normalised_model,
    "robustness": robustness_library,
}


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "convnext_atto"])
def test_every_layout_gives_the_same_network(tmp_path, name, layout):
    tensors = state(name)
    path = tmp_path / "model.pt"
    torch.save(LAYOUTS[layout](tensors), path)
    made = create(name, path)
    plain = tmp_path / "plain.pt"
    torch.save(tensors, plain)
    expected = create(name, plain, normalisation=made.config.normalisation)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made(x), expected(x))
    if layout == "robustness":
        assert made.config.normalisation == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
        assert made.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_a_networks_own_normalisation_is_not_noted(tmp_path):
    torch.save(normalised_model(state("resnet18")), tmp_path / "model.pt")
    assert create("resnet18", tmp_path / "model.pt").config.normalisation is None
    torch.save(normalised_model(state("test_vit")), tmp_path / "vit.pt")
    assert create("test_vit", tmp_path / "vit.pt").config.normalisation == IMAGENET  # its own: 0.5


@torch.no_grad()
def test_by_name_from_robustbenchs_folder(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "imagenet" / "Linf"
    folder.mkdir(parents=True)
    tensors = state("resnet18")
    torch.save(normalised_model(tensors), folder / "Salman2020Do_R18.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    made = create("robustbench/Salman2020Do_R18", layers=(2,))
    assert (made.config.name, made.config.layers) == ("resnet18", (2,))
    assert torch.equal(made.model.state_dict()["conv1.weight"], tensors["conv1.weight"])
    monkeypatch.chdir("/")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "models"))
    assert locate("Salman2020Do_R18") == folder / "Salman2020Do_R18.pt"


def test_a_detector_with_such_a_backbone_is_read_back_without_the_file(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    torch.save(state("resnet18"), path)
    monkeypatch.setitem(MODELS, "Small", Entry("resnet18", NONE))  # normalises nothing
    detector = AnomalyDINO(create("robustbench/Small", path, layers=(1,)), image_size=32)
    detector.fit(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert detector.config().backbone.normalisation == NONE
    detector.save(tmp_path / "d.safetensors")
    path.unlink()
    loaded = robustad.load(tmp_path / "d.safetensors")
    assert loaded.backbone.std.flatten().tolist() == [1.0, 1.0, 1.0]
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded(x), detector(x))


@pytest.mark.parametrize("name", sorted({one.network for one in MODELS.values()}))
def test_timm_has_every_network(name):
    assert timm.is_model(name)


def test_what_is_missing_or_unknown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(WeightsError, match=r"not at models/imagenet/Linf/Salman2020Do_R50\.pt"):
        create("robustbench/Salman2020Do_R50")
    with pytest.raises(WeightsError, match="expected robustbench/ and one of Wong2020Fast"):
        create("robustbench/Debenedetti2022Light_XCiT-S12")
    with pytest.raises(WeightsError, match="no such checkpoint file"):
        create("robustbench/Salman2020Do_R50", tmp_path / "nowhere.pt")
    torch.save(normalised_model(state("resnet18")), tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="does not fit the model"):
        create("robustbench/Salman2020Do_R50", tmp_path / "other.pt")
    with pytest.raises(InputError, match="'filters' takes no weights, layers or normalisation"):
        create("filters", normalisation=IMAGENET)
    assert entry("Mo2022When_ViT-B").network == "vit_base_patch16_224"


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_is_unpickled(tmp_path, capsys):
    torch.save({"model": state("resnet18"), "schedule": Trap()}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
        create("robustbench/Salman2020Do_R18", tmp_path / "x.pt")
    assert "executed" not in capsys.readouterr().out


def test_what_wraps_nothing_is_left_alone():
    plain = {"conv1.weight": torch.ones(2), "fc.bias": torch.ones(3)}
    found, normalisation = unwrapped(plain)
    assert found == plain
    assert normalisation is None
    half = {"normalize.mean": torch.ones(3), "model.a": torch.ones(1)}
    found, normalisation = unwrapped(half)
    assert [*found] == ["a"]
    assert normalisation is None
