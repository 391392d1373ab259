import pytest
import torch
from torch import nn

from robustad.attacks.problem import Problem


class Scorer(nn.Module):
    """The least an attack needs: `score` of flattened images, and the mean over patches."""

    def __init__(self, score):
        super().__init__()
        self.score = score
        self.eval()

    def patch_scores(self, x):
        return self.score(x)

    def aggregate(self, patch_scores):
        return patch_scores.mean(dim=1)


@pytest.fixture
def scorer():
    return Scorer


@pytest.fixture
def linear():
    """A scorer that is linear in the pixels, and the weights of its image score."""

    def build(shape, patches=4, seed=0):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(patches, *shape, generator=generator)
        made = Scorer(lambda x: x.flatten(1) @ weight.to(x.dtype).flatten(1).T)
        return made, weight

    return build


@pytest.fixture
def smooth():
    """A small differentiable network as a scorer, with parameters."""

    def build(patches=6, size=8, seed=0):
        torch.manual_seed(seed)
        body = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(5 * size * size, patches),
            nn.Softplus(),
        )
        return Scorer(body)

    return build


@pytest.fixture
def images():
    def build(count=4, size=8, seed=0):
        return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))

    return build


@pytest.fixture
def maximising():
    """A problem that is to maximise any loss (B,) of images (B, 3, H, W)."""

    def build(loss, x, **options):
        made = Scorer(lambda images: loss(images)[:, None])
        label = torch.zeros(x.shape[0], dtype=torch.int64)
        return Problem.of(made, x, **{"label": label, "eps": 8 / 255, **options})

    return build
