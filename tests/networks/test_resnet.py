import pytest
import torch

from robustad.errors import InputError
from robustad.networks import NetworkConfig, create
from robustad.networks.resnet import cut_patches


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create(NetworkConfig(body="resnet18", image_size=56)).eval()


def test_patches_are_those_of_a_vit():
    x = torch.rand(2, 3, 28, 28)
    patches = cut_patches(x, 14)
    assert patches.shape == (2, 4, 3, 14, 14)
    for index in range(4):
        row, column = divmod(index, 2)
        window = x[:, :, row * 14 : row * 14 + 14, column * 14 : column * 14 + 14]
        assert torch.equal(patches[:, index], window)


def test_a_logit_depends_on_its_patch_alone(network, images):
    logits, maps = network(images)
    assert logits.shape == (2, 16)
    assert maps == []
    changed = images.clone()
    changed[0, :, 14:28, 28:42] = 0.5  # row 1, column 2
    differs = (network(changed)[0] - logits).abs() > 1e-6
    assert differs.nonzero().tolist() == [[0, 6]]


def test_stems_leave_what_they_say(network):
    def sizes(body):
        shapes = []
        hooks = [
            getattr(body, f"layer{i}").register_forward_hook(
                lambda *call: shapes.append(call[2].shape[-1])
            )
            for i in range(1, 5)
        ]
        body(torch.rand(1, 3, 14, 14))
        for hook in hooks:
            hook.remove()
        return shapes

    assert sizes(network.body) == [7, 4, 2, 1]
    usual = create(NetworkConfig(body="resnet18", resnet_stem="imagenet")).eval()
    assert sizes(usual.body) == [4, 2, 1, 1]


def test_size_and_layers():
    with torch.device("meta"):
        network = create(NetworkConfig(body="resnet50"))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(23.5e6, rel=0.01)
    assert (network.grid, network.patch_size, network.attention_layers) == ((16, 16), 14, ())
    with pytest.raises(InputError, match=r"no layer 'block 1' \(none: it has no attention\)"):
        network(torch.rand(1, 3, 224, 224, device="meta"), ["block 1"])


def test_every_parameter_gets_a_gradient(network, images):
    x = images.clone().requires_grad_()
    network(x)[0].sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert x.grad is not None
    assert (x.grad != 0).float().mean() > 0.9
    network.zero_grad(set_to_none=True)


def test_weights_from_a_file(network, tmp_path):
    path = tmp_path / "resnet.pth"
    state = network.body.state_dict()
    state["conv1.weight"] = torch.zeros(64, 3, 7, 7)
    torch.save(state, path)
    for stem, size in (("patch", 3), ("imagenet", 7)):
        config = NetworkConfig(body="resnet18", image_size=56, resnet_stem=stem)
        loaded = create(config, path)
        assert loaded.body.conv1.weight.shape[-1] == size
        assert torch.equal(loaded.body.layer4[0].conv1.weight, state["layer4.0.conv1.weight"])
