import os
import pickle
import shutil
import socket
import time

import pytest
import timm
import torch
from safetensors.torch import save_file

from robustad.backbones import create, weights
from robustad.errors import WeightsError

VIT, CNN = "test_vit", "test_resnet"  # timm's own small models


def image(size=64):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def state(name, seed=0, **options):
    """The tensors of a timm model, as its published files have them."""
    torch.manual_seed(seed)
    return timm.create_model(name, **options).state_dict()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and an empty cache; gives the cache's folder."""

    def refuse(*_args, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(weights, "getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


# Files of trained networks


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt", "bin"])
@pytest.mark.parametrize("name", [VIT, CNN])
def test_a_file_is_read_back(tmp_path, name, suffix):
    path = tmp_path / f"model.{suffix}"
    tensors = state(name)
    (save_file if suffix == "safetensors" else torch.save)(tensors, path)
    for made in (create(name, path), create(name, str(path))):
        for key, value in made.model.state_dict().items():
            assert torch.equal(value, tensors[key]), key


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_100"])
def test_whole_networks_load_into_feature_extractors(tmp_path, name):
    # head and last stages are in the file; some extractors rename `stages.0` to `stages_0`
    torch.manual_seed(0)
    plain = timm.create_model(name).eval()
    save_file(plain.state_dict(), tmp_path / "model.safetensors")
    made = create(name, tmp_path / "model.safetensors")
    theirs = timm.create_model(
        name,
        features_only=True,
        out_indices=made.config.layers,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": plain.state_dict()},
    ).eval()
    x = image()
    own = made.model(x)
    for ours, other in zip(own, theirs(x), strict=True):
        assert torch.equal(ours, other)


LAYOUTS = {
    "plain": lambda tensors: tensors,
    "parallel": lambda tensors: {f"module.{key}": value for key, value in tensors.items()},
    "state_dict": lambda tensors: {"state_dict": tensors, "epoch": 3},
    "model": lambda tensors: {"model": tensors, "optimizer": {}, "args": "x"},
    "teacher": lambda tensors: {
        "student": {},
        "teacher": {f"backbone.{key}": value for key, value in tensors.items()},
    },
    "nested": lambda tensors: {
        "state_dict": {f"module.backbone.{key}": value for key, value in tensors.items()}
    },
}


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_usual_wrappings(tmp_path, layout):
    tensors = state(VIT, num_classes=0)
    save_file(tensors, tmp_path / "plain.safetensors")
    expected = create(VIT, tmp_path / "plain.safetensors")(image())
    torch.save(LAYOUTS[layout](tensors), tmp_path / "model.pth")
    assert torch.equal(create(VIT, tmp_path / "model.pth")(image()), expected)


@torch.no_grad()
@pytest.mark.parametrize("registers", [False, True])
def test_the_files_of_dinov2s_authors(tmp_path, registers):
    name = f"vit_small_patch14_{'reg4_' if registers else ''}dinov2"
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    tensors = dict(plain.state_dict())
    tensors["mask_token"] = torch.zeros(1, 384)
    if registers:
        # theirs gives the class token a position of its own; timm's has it added
        tensors["register_tokens"] = tensors.pop("reg_token")
        place = torch.full((1, 1, 384), 0.25)
        tensors["cls_token"] = tensors["cls_token"] - place[:, 0]
        tensors["pos_embed"] = torch.cat([place, tensors["pos_embed"]], dim=1)
    path = tmp_path / "dinov2_pretrain.pth"
    torch.save(tensors, path)
    made = create(name, path)
    path.unlink()  # 90 MB
    x = image(56)
    expected = plain.forward_features((x - made.mean) / made.std)[:, made.prefix :]
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_half_precision_files(tmp_path):
    tensors = {key: value.half() for key, value in state(VIT).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    made = create(VIT, tmp_path / "model.safetensors")
    assert made(image()).dtype == torch.float32
    assert torch.equal(made.model.pos_embed, tensors["pos_embed"].float())


def test_batch_norms_counters_may_be_missing(tmp_path):
    tensors = {k: v for k, v in state(CNN).items() if "num_batches_tracked" not in k}
    save_file(tensors, tmp_path / "model.safetensors")
    made = create(CNN, tmp_path / "model.safetensors")
    assert torch.equal(made.model.state_dict()["conv1.0.weight"], tensors["conv1.0.weight"])


# Files that do not fit


def refused(name, path, match):
    with pytest.raises(WeightsError, match=match):
        create(name, path)


def test_missing_and_unreadable_files(tmp_path):
    refused(VIT, tmp_path / "no.pth", r"no\.pth: no such checkpoint file$")
    refused(VIT, tmp_path, rf"{tmp_path.name}: no such checkpoint file$")
    for suffix in ("safetensors", "pth", "bin"):
        path = tmp_path / f"text.{suffix}"
        path.write_text("<!DOCTYPE html> sign in to download")
        refused(VIT, path, rf"text\.{suffix}: cannot be read as a checkpoint: \w+")
        path.write_bytes(b"")
        refused(VIT, path, rf"text\.{suffix}: cannot be read as a checkpoint: \w+")
        whole = tmp_path / f"whole.{suffix}"
        (save_file if suffix == "safetensors" else torch.save)(state(VIT), whole)
        path.write_bytes(whole.read_bytes()[:100_000])
        refused(VIT, path, rf"text\.{suffix}: cannot be read as a checkpoint: \w+")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))]
)
def test_code_in_a_pickle_is_not_run(tmp_path, writer):
    writer({**state(VIT), "evil": Malicious(tmp_path / "pwned")}, tmp_path / "evil.pth")
    refused(VIT, tmp_path / "evil.pth", r"evil\.pth: cannot be read as a checkpoint: \w+")
    assert not (tmp_path / "pwned").exists()


def test_files_without_tensors(tmp_path):
    for content, kind in (
        ([1, 2], "list"),
        ({"model": {"a": 3}}, "dict"),
        (torch.ones(2), "Tensor"),
    ):
        torch.save(content, tmp_path / "other.pth")
        refused(
            VIT, tmp_path / "other.pth", rf"other\.pth: expected a dict of tensors, got {kind}$"
        )
    torch.save({}, tmp_path / "empty.pth")
    refused(VIT, tmp_path / "empty.pth", r"\d+ of \d+ tensors are missing.* first key is None$")


def test_another_architecture(tmp_path):
    save_file(state(CNN), tmp_path / "cnn.safetensors")
    save_file(state(VIT), tmp_path / "vit.safetensors")
    match = r"does not fit the model, (\d+) of \1 tensors are missing, first '.*'; the file's first"
    refused(VIT, tmp_path / "cnn.safetensors", rf"cnn\.safetensors: {match} key is '")
    refused(CNN, tmp_path / "vit.safetensors", rf"vit\.safetensors: {match} key is '")


def test_another_width(tmp_path):
    tensors = state(VIT)
    tensors["blocks.0.mlp.fc1.bias"] = torch.zeros(5)
    save_file(tensors, tmp_path / "model.safetensors")
    refused(
        VIT,
        tmp_path / "model.safetensors",
        r"tensor 'blocks.0.mlp.fc1.bias' has shape \(5,\), the model expects \(\d+,\)$",
    )


def test_one_tensor_is_missing(tmp_path):
    tensors = state(VIT)
    del tensors["blocks.1.norm1.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    refused(
        VIT, tmp_path / "model.safetensors", r", 1 of \d+ tensors .*, first 'blocks.1.norm1.bias';"
    )


def test_a_deeper_network_of_the_same_family(tmp_path):
    # every tensor of ResNet-18 is in ResNet-34, by name and shape, and blocks 2 to 5 besides
    tensors = state("resnet18")
    tensors["layer3.2.conv1.weight"] = tensors["layer3.1.conv1.weight"].clone()
    save_file(tensors, tmp_path / "resnet34.safetensors")
    refused(
        "resnet18",
        tmp_path / "resnet34.safetensors",
        r"resnet34\.safetensors: does not fit .*, which has no tensor 'layer3.2.conv1.weight'$",
    )
    # of stages that are not used, any depth will do
    del tensors["layer3.2.conv1.weight"]
    tensors["layer4.2.conv1.weight"] = torch.zeros(1)
    save_file(tensors, tmp_path / "resnet34.safetensors")
    assert create("resnet18", tmp_path / "resnet34.safetensors").config.layers == (2, 3)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("stages_0.conv.weight", "stages.0.conv.weight"),
        ("features_conv0.weight", "features.conv0.weight"),
        ("conv_stem.weight", "conv_stem.weight"),
        ("my_stages_0.weight", "my_stages.0.weight"),
        ("stages_1.weight", "stages_1.weight"),
    ],
)
def test_names_of_extractors_in_files(own, name):
    tensors = {name: torch.zeros(1), "conv.stem.weight": torch.zeros(1)}
    assert weights._key_in(tensors, own) == name
    assert weights._key_in({}, own) == own


def test_a_transformer_with_more_parts(tmp_path):
    tensors = state(VIT)
    tensors["blocks.0.ls3.gamma"] = torch.ones(64)
    save_file(tensors, tmp_path / "model.safetensors")
    refused(VIT, tmp_path / "model.safetensors", r"which has no tensor 'blocks.0.ls3.gamma'$")


@pytest.mark.parametrize("kind", ["registers", "class token"])
def test_a_layout_that_timm_cannot_translate(tmp_path, kind):
    tensors = state("vit_tiny_patch16_224", num_classes=0)
    tensors["mask_token"] = torch.zeros(1, 192)
    tensors["register_tokens"] = torch.zeros(1, 4, 192)
    if kind == "class token":
        del tensors["cls_token"]
    torch.save(tensors, tmp_path / "model.pth")
    refused("vit_tiny_patch16_224", tmp_path / "model.pth", r"model\.pth: does not fit the model: ")


# Names


@pytest.mark.parametrize("chosen", [None, "random"])
@pytest.mark.parametrize("layers", [None, (1,)])
@pytest.mark.parametrize("name", ["resnet1800", "vit_small_patch14_dinov9"])
def test_unknown_models(name, layers, chosen, offline):
    with pytest.raises(
        WeightsError,
        match=rf"^backbone '{name}': timm has no such model or tag \(Unknown model .*'filters'",
    ):
        create(name, chosen, layers=layers)


@pytest.mark.parametrize("chosen", [None, "random"])
@pytest.mark.parametrize("name", ["resnet18", "vit_small_patch14_dinov2"])
def test_unknown_tags(name, chosen, offline):
    with pytest.raises(
        WeightsError, match=rf"^backbone '{name}.nothing': timm has no such model or tag \(Invalid"
    ):
        create(f"{name}.nothing", chosen)


# Without a network


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("vit_small_patch14_dinov2.lvd142m", "timm/vit_small_patch14_dinov2.lvd142m"),
        ("vit_small_patch14_dinov2", "timm/vit_small_patch14_dinov2.lvd142m"),
        ("resnet18", "timm/resnet18.a1_in1k"),
    ],
)
def test_weights_that_cannot_be_downloaded(name, home, offline):
    start = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        create(name)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert message.startswith(f"backbone '{name}': its weights are not in the local cache and")
    assert f"huggingface.co/{home}, file model.safetensors" in message
    assert "pass its path as `weights` (--weights on the command line)" in message
    assert "backbone 'filters', which needs none" in message
    assert "(no network)" in message


def test_a_failing_download(offline, monkeypatch):
    # the name resolves, but nothing answers
    monkeypatch.setattr(weights, "_no_network", lambda: False)

    def fail(*_args, **_options):
        raise OSError("connection reset\nand a page of HTML")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    with pytest.raises(WeightsError, match=r"cannot be downloaded \(connection reset\)\. Either"):
        create(VIT)


def test_a_model_that_was_never_published(offline):
    assert not timm.get_pretrained_cfg("lcnet_035").has_weights
    with pytest.raises(WeightsError, match=r"No pretrained weights exist .* network and pass its"):
        create("lcnet_035")


@torch.no_grad()
def test_cached_weights_need_no_network(offline):
    home = timm.get_pretrained_cfg(VIT).hf_hub_id
    folder = offline / f"models--{home.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    tensors = state(VIT, seed=3)
    save_file(tensors, folder / "snapshots" / "abc" / "model.safetensors")
    for name in (VIT, home.removeprefix("timm/")):
        assert torch.equal(create(name).model.pos_embed, tensors["pos_embed"])
    shutil.rmtree(folder)
    with pytest.raises(WeightsError, match=r"not in the local cache"):
        create(VIT)


def test_an_option_that_does_not_fit_is_no_download_error(offline, monkeypatch):
    monkeypatch.setattr(weights, "_no_network", lambda: False)
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *_args, **_options: state(CNN)
    )
    with pytest.raises(IndexError):
        weights.build(timm.create_model, CNN, None, features_only=True, out_indices=(9,))
    with pytest.raises(TypeError, match="no_such_option"):
        weights.build(timm.create_model, VIT, None, no_such_option=1)


def test_a_proxy_resolves_names_itself(offline, monkeypatch):
    assert weights._no_network()
    monkeypatch.setattr(weights, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert not weights._no_network()
