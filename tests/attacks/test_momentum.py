import pytest
import torch
import torchattacks
from torch import nn

from robustad.attacks.momentum import _diverse, mifgsm
from robustad.errors import InputError


class TwoClasses(nn.Module):
    """Logits (0, s) of an image score s: cross-entropy towards class 0 rises strictly with s."""

    def __init__(self, scorer):
        super().__init__()
        self.scorer = scorer

    def forward(self, x):
        score = self.scorer.aggregate(self.scorer.patch_scores(x))
        return torch.stack([torch.zeros_like(score), score], dim=1)


def image_loss(scorer):
    return lambda x: scorer.aggregate(scorer.patch_scores(x))


def cross_entropy(scorer):
    model = TwoClasses(scorer)
    return lambda x: -torch.log_softmax(model(x), dim=1)[:, 0]


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_matches_torchattacks_step_for_step(maximising, smooth, images, steps, decay):
    scorer, x = smooth(), images()
    theirs = torchattacks.MIFGSM(
        TwoClasses(scorer), eps=8 / 255, alpha=0.005, steps=steps, decay=decay
    )
    expected = theirs(x, torch.zeros(4, dtype=torch.int64))
    # momentum sums gradients of different lengths: the loss has to be theirs as well
    problem = maximising(cross_entropy(scorer), x)
    ours = mifgsm(problem, steps=steps, step_size=0.005, decay=decay, keep="last")
    assert torch.allclose(ours, expected, atol=1e-6)


def test_the_default_step_reaches_the_edge_of_the_ball(maximising, images):
    x = images() * 0.5 + 0.25
    found = mifgsm(maximising(lambda image: image.sum(dim=(1, 2, 3)), x), steps=7)
    assert torch.allclose(found, x + 8 / 255, atol=1e-6)


@pytest.mark.parametrize("diversity", [0.0, 0.5, 1.0])
def test_draws_do_not_depend_on_the_batch(maximising, smooth, images, diversity):
    scorer, x = smooth(size=16), images(3, size=16)
    options = {"steps": 5, "diversity": diversity, "keep": "last"}
    whole = mifgsm(maximising(image_loss(scorer), x, seeds=[5, 6, 7]), **options)
    for i in range(3):
        one = mifgsm(maximising(image_loss(scorer), x[i : i + 1], seeds=[5 + i]), **options)
        assert torch.allclose(one[0], whole[i], atol=1e-6)
    other = mifgsm(maximising(image_loss(scorer), x, seeds=[1, 2, 3]), **options)
    assert torch.equal(other, whole) == (diversity == 0)


def test_diverse_inputs_are_shrunk_copies_on_black():
    images = torch.ones(200, 3, 20, 30)
    draws = [torch.Generator().manual_seed(i) for i in range(200)]
    found = _diverse(images, draws, 0.5, 0.5)
    area = found[:, 0].sum(dim=(1, 2))
    changed = area < 600
    assert 0.35 < float(changed.float().mean()) < 0.6
    assert float(area.min()) >= 150
    for image in found[changed][:20]:
        rows, columns = image[0].sum(dim=1) > 0, image[0].sum(dim=0) > 0
        assert float(image[0].sum()) == pytest.approx(float(rows.sum() * columns.sum()))
    assert torch.equal(_diverse(images, draws, 0.0, 0.5), images)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_no_loss_falls_when_the_best_is_kept(maximising, smooth, images, norm):
    scorer, x = smooth(seed=3), images(8, seed=3)
    wavy = lambda image: torch.sin(40 * image_loss(scorer)(image))  # noqa: E731
    problem = maximising(wavy, x, eps={"linf": 0.1, "l2": 1.0, "l1": 8.0}[norm], norm=norm)
    for diversity in (0.0, 0.7):
        found = mifgsm(problem, steps=5, diversity=diversity)
        assert (problem.values(found) >= problem.values(x)).all()
        assert problem.inside(found).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected >= 1, got 0"),
        ({"step_size": -1.0}, "step_size: expected > 0, got -1"),
        ({"decay": -0.1}, "decay: expected a finite number >= 0, got -0.1"),
        ({"diversity": 1.1}, "diversity: expected a probability, got 1.1"),
        ({"smallest": 0.0}, r"smallest: expected a share of the edge in \(0, 1\], got 0"),
        ({"restarts": 0}, "restarts: expected >= 1, got 0"),
    ],
)
def test_it_refuses(maximising, smooth, images, options, message):
    with pytest.raises(InputError, match=message):
        mifgsm(maximising(image_loss(smooth()), images()), **options)
