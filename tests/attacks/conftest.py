import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog
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


class Banked(nn.Module):
    """A small k-NN detector: cosine distance of 2 x 2 patches' features to their nearest vector."""

    def __init__(self, size, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 2, stride=2), nn.Tanh(), nn.Conv2d(6, 5, 1))
        normal = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(99))
        with torch.no_grad():
            features = self.patch_features(normal).flatten(0, 1)
        self.register_buffer("bank", nn.functional.normalize(features, dim=1))
        self.eval()

    def patch_features(self, x):
        return self.body(x - 0.5).flatten(2).transpose(1, 2)

    def patch_scores(self, x):
        unit = nn.functional.normalize(self.patch_features(x), dim=2)
        return 1 - (unit @ self.bank.T).amax(dim=2)

    def aggregate(self, patch_scores):
        return patch_scores.topk(3, dim=1).values.mean(dim=1)


@pytest.fixture
def banked():
    """A k-NN detector with features and a bank, for images of a size."""
    return lambda size=8, seed=0: Banked(size, seed)


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


@pytest.fixture(scope="session")
def nearest_of_linear():
    """Distance to the threshold of a linear image score, with the box, by other means than ours."""

    def distance(image, weight, missing, norm):
        low, high = (-image).double().flatten().numpy(), (1 - image).double().flatten().numpy()
        weight = weight.double().flatten().numpy()
        if norm == "l1":  # what goes up and what goes down, each at a cost of 1
            room = np.concatenate([high, -low])
            made = linprog(
                np.ones_like(room),
                A_eq=np.concatenate([weight, -weight])[None],
                b_eq=[missing],
                bounds=np.stack([np.zeros_like(room), room], axis=1),
            )
            return made.fun
        pace = np.sign(weight) if norm == "linf" else weight

        def cut(much):  # every pixel moves alike, or as its weight says, as far as the box lets it
            return np.clip(much * pace, low, high)

        much = brentq(lambda much: cut(much) @ weight - missing, -1e5, 1e5, xtol=1e-13)
        return np.linalg.norm(cut(much), ord=np.inf if norm == "linf" else 2)

    return distance
