"""FAB, Square and HopSkipJump beside other libraries' on the same two-class model and budget."""

import foolbox
import pytest
import torch
import torchattacks
from torch import nn

from robustad.attacks import fab, hopskipjump, square
from robustad.attacks.problem import Problem

SIZE = 25  # torchattacks' l2 start needs five odd tiles an edge
THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ORDER = {"linf": torch.inf, "l2": 2, "l1": 1}


class TwoClasses(nn.Module):
    """Class 1 where the image score reaches the threshold."""

    def __init__(self, scorer, threshold):
        super().__init__()
        self.scorer, self.threshold = scorer, threshold
        self.eval()

    def forward(self, x):
        margin = self.scorer.aggregate(self.scorer.patch_scores(x)) - self.threshold
        return torch.stack([-margin, margin], dim=1)


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=3), nn.Tanh(), nn.Conv2d(6, 1, 3), nn.Flatten()
    ).requires_grad_(False)

    class Top(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def patch_scores(self, x):
            return self.body(x)

        def aggregate(self, patch):
            return patch.topk(3, dim=1).values.mean(dim=1)

    scorer = Top().eval()
    x = torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    score = scorer.aggregate(scorer.patch_scores(x))
    threshold = float(score.median()) + 1e-4
    return scorer, x, (score >= threshold).long(), threshold


def problem_of(case, norm, eps):
    scorer, x, label, threshold = case
    return Problem.of(scorer, x, label=label, eps=eps, norm=norm, threshold=threshold)


def length(delta, norm):
    return torch.linalg.vector_norm(delta.flatten(1), ord=ORDER[norm], dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fab_is_as_near_as_torchattacks(case, norm):
    scorer, x, label, threshold = case
    ours = fab.nearest(problem_of(case, norm, 1.0), iterations=20)
    peer = torchattacks.FAB(
        TwoClasses(scorer, threshold), norm=THEIRS[norm], eps=None, steps=20, n_classes=2
    )
    theirs = length(peer.attack_single_run(x, label) - x, norm)
    assert ours.found.all()
    assert (ours.distance <= theirs * 1.02).all()
    for eps in (0.5 * float(theirs.median()), float(theirs.median()), float(theirs.max())):
        assert int((ours.distance <= eps).sum()) >= int((theirs <= eps).sum())


@pytest.mark.parametrize(("norm", "part"), [("linf", 2.0), ("l2", 4.0)])
def test_square_succeeds_as_often_as_torchattacks(case, norm, part):
    """At a radius where about half of the images can be had with these queries."""
    scorer, x, label, threshold = case
    eps = part * float(fab.nearest(problem_of(case, norm, 1.0), iterations=20).distance.median())
    made = square.square(problem_of(case, norm, eps), queries=300)
    ours = (scorer.aggregate(scorer.patch_scores(made)) >= threshold).long() != label
    model = TwoClasses(scorer, threshold)
    peer = torchattacks.Square(
        model, norm=THEIRS[norm], eps=eps, n_queries=300, p_init=0.8, resc_schedule=True
    )
    theirs = model(peer(x, label)).argmax(dim=1) != label
    assert theirs.any()
    assert int(ours.sum()) >= int(theirs.sum())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hopskipjump_is_as_near_as_foolbox(case, norm):
    """From the same first images and with no more queries."""
    scorer, x, label, threshold = case
    starts = torch.stack([x[label != wanted][0] for wanted in label])
    model = TwoClasses(scorer, threshold)
    asked = []
    model.register_forward_hook(lambda module, images, out: asked.append(len(out)))
    peer = foolbox.attacks.HopSkipJumpAttack(steps=6, constraint=norm)
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1))
    made = peer.run(bounded, x, foolbox.Misclassification(label), starting_points=starts)
    theirs = length(made - x, norm)
    queries = sum(asked) // len(x)
    ours = torch.empty_like(theirs)
    for wanted in (0, 1):
        chosen = label == wanted
        problem = problem_of(case, norm, 1.0).select(chosen)
        found = hopskipjump.nearest(problem, queries=queries, pool=starts[chosen][:1], trials=0)
        ours[chosen] = found.distance
    assert float(ours.median()) <= 1.05 * float(theirs.median())
