import pytest
import torch
from torch import nn

from robustad.attacks import attack
from robustad.attacks.features import features
from robustad.attacks.problem import Problem
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError


class Shown(nn.Module):
    """Scores without any gradient, over features with one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 6, 2, stride=2)
        self.eval()

    def patch_features(self, x):
        return self.body(x).flatten(2).transpose(1, 2)

    def patch_scores(self, x):
        return self.patch_features(x).detach().norm(dim=2).round(decimals=1)

    def aggregate(self, patch_scores):
        return patch_scores.mean(dim=1)


def moved(detector, x_adv, x):
    one, other = detector.patch_features(x_adv), detector.patch_features(x)
    return 1 - torch.nn.functional.cosine_similarity(one, other, dim=2)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_features_move_though_the_score_has_no_gradient(images, norm):
    detector, x, eps = Shown(), images(2), 0.05 if norm == "linf" else 0.5
    problem = Problem.of(detector, x, label=torch.tensor([0, 1]), eps=eps, norm=norm)
    found = features(problem, steps=20)
    assert problem.inside(found).all()
    random = problem.start(0)
    assert (moved(detector, found, x).mean(1) > 1.5 * moved(detector, random, x).mean(1)).all()
    assert problem.meter.forward.tolist() == [21, 21]
    assert problem.meter.backward.tolist() == [20, 20]


def test_masks_choose_the_patches_of_anomalous_images(images):
    detector, x = Shown(), images(2)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[1, 5] = True
    label = torch.tensor([0, 1])
    found = attack(detector, x, label=label, mask=mask, attack="features20", eps=0.05)
    change = (found.x_adv - x).abs().amax(dim=1)
    assert (change[0] > 0.02).float().mean() > 0.5
    row, column = divmod(5, 4)
    alone = moved(detector, found.x_adv, x)[1]
    everywhere = attack(detector, x, label=label, attack="features20", eps=0.05)
    together = moved(detector, everywhere.x_adv, x)[1]
    assert alone[5] >= 0.99 * together[5]
    assert alone.sum() - alone[5] < 0.7 * (together.sum() - together[5])  # noise of the start
    assert change[1, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].max() > 0.02


def test_normal_images_score_higher(images):
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    detector = AnomalyDINO("filters", image_size=32).fit(x[:2])
    found = attack(detector, x[:2], label=torch.zeros(2).long(), attack="features20")
    assert (found.score > found.clean_score).all()


def test_detectors_without_features_are_refused(smooth, images):
    with pytest.raises(InputError, match="the features attack needs patch_features, which Scorer"):
        attack(smooth(), images(1), label=torch.tensor([0]), attack="features")
    detector = smooth()
    detector.patch_features = lambda x: x.flatten(1)
    with pytest.raises(InputError, match=r"expected patch_features \(1, N, D\), got \(1, 192\)"):
        attack(detector, images(1), label=torch.tensor([0]), attack="features")
