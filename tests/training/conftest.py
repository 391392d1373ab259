import pytest
import torch
from torch import nn

from robustad.networks import PatchNetwork


class Toy(PatchNetwork):
    """Two linear layers a patch, with dropout between them."""

    def __init__(self, image_size: int = 16, patch_size: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.image_size, self.patch_size, self.attention_layers = image_size, patch_size, ()
        self.embed = nn.Conv2d(3, 8, patch_size, patch_size)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x, attention=()):
        return self.head(self.drop(torch.tanh(self.embed(x)))).flatten(1), []


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


@pytest.fixture
def make_toy() -> type[Toy]:
    return Toy


TINY = {
    "network.image_size": 32,
    "network.depth": 1,
    "network.embed_dim": 32,
    "network.num_heads": 2,
    "network.discriminator_hidden": 32,
    "optimiser.epochs": 3,
    "optimiser.repeats": 1,
    "optimiser.batch_size": 3,
    "attack.steps": 2,
    "validation.every": 1,
    "validation.steps": 1,
    "validation.draws": 1,
    "validation.patience": None,
}


@pytest.fixture
def tiny() -> dict[str, object]:
    """A run of a second or two."""
    return dict(TINY)


@pytest.fixture(scope="session")
def images():
    from robustad.data.surfaces import Surfaces

    return Surfaces(size=64, train=7, test_good=3, per_defect=1).load("tray")
