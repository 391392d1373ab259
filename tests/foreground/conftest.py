import numpy as np
import pytest
from PIL import Image

from robustad.data import Sample


def scene(y, x, radius=14, size=64):
    """A bright, textured disc on a flat ground, and where it is."""
    rows, columns = np.mgrid[:size, :size]
    disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    pixels = np.full((size, size, 3), (40, 60, 50), np.uint8)
    texture = np.random.default_rng(0).integers(150, 256, (size, size, 3))
    pixels[disc] = texture[disc]
    return pixels, disc


@pytest.fixture
def discs():
    """Three generated images (arrays) and their true masks."""
    made = [scene(30, 30), scene(25, 40), scene(40, 22)]
    samples = [
        Sample(image=pixels, label=0, name=f"train/good/{i}.png")
        for i, (pixels, _) in enumerate(made)
    ]
    return samples, [disc for _, disc in made]


@pytest.fixture
def on_disk(discs, tmp_path):
    """The same as files of a category folder."""
    samples = []
    for sample in discs[0]:
        path = tmp_path / "disc" / sample.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.image).save(path)
        samples.append(Sample(image=path, label=0, name=sample.name))
    return samples


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """A ResNet-18 checkpoint with random weights: whole, and without layer4 and classifier."""
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = timm.create_model("resnet18", pretrained=False).state_dict()
    folder = tmp_path_factory.mktemp("weights")
    save_file(state, folder / "whole.safetensors")
    trunk = {k: v for k, v in state.items() if not k.startswith(("layer4", "fc"))}
    save_file(trunk, folder / "trunk.safetensors")
    return folder / "whole.safetensors", folder / "trunk.safetensors"
