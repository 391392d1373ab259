import pytest
import torch

from robustad.networks import NetworkConfig, create

# A ViT of 4 x 4 patches that is built and run in milliseconds.
TINY = {
    "image_size": 56,
    "depth": 2,
    "embed_dim": 32,
    "num_heads": 2,
    "discriminator_hidden": 48,
    # With the model's own factor of 1e-5 the blocks would do nothing that a test could see.
    "layer_scale": 1.0,
}


def tiny_network(seed=0, **options):
    torch.manual_seed(seed)
    return create(NetworkConfig(**{**TINY, **options})).eval()


@pytest.fixture(scope="session")
def tiny():
    return tiny_network


@pytest.fixture
def images():
    return torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
