import pytest
import torch

from robustad.attacks import attack
from robustad.attacks.momentum import mifgsm
from robustad.attacks.problem import Problem
from robustad.attacks.transfer import Resampled, transfer
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError

EPS = 8 / 255


@pytest.fixture(scope="module")
def fitted():
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return AnomalyDINO("filters", image_size=32, square=True, top_fraction=2).fit(x[:2]), x[2:]


@pytest.mark.parametrize("name", ["transfer", "transfer20_l2"])
def test_the_detector_is_not_asked_and_is_fooled_by_its_double(fitted, name):
    detector, x = fitted
    label, eps = torch.tensor([0, 1]), EPS if name == "transfer" else 1.0
    found = attack(detector, x, label=label, attack=name, eps=eps, surrogate=detector)
    assert found.forward.tolist() == [0, 0]
    assert found.backward.tolist() == [0, 0]
    assert (found.distance <= eps + 1e-5).all()
    assert ((1 - 2 * label) * (found.score - found.clean_score) > 0).all()


def test_without_diversity_it_is_momentum_on_the_surrogate(smooth, images):
    surrogate, other, x = smooth(), smooth(seed=1), images(3)
    label = torch.tensor([0, 1, 0])
    problem = Problem.of(other, x, label=label, eps=EPS, seeds=[7, 8, 9])
    direct = Problem.of(surrogate, x, label=label, eps=EPS, seeds=[7, 8, 9])
    made = transfer(problem, surrogate, diversity=0.0)
    assert torch.equal(made, mifgsm(direct, steps=10, keep="last"))


def test_draws_do_not_depend_on_the_batch(smooth, images):
    surrogate, x, label = smooth(), images(3), torch.tensor([0, 1, 0])
    whole = transfer(Problem.of(surrogate, x, label=label, eps=EPS), surrogate, random=True)
    part = Problem.of(surrogate, x[2:], label=label[2:], eps=EPS, seeds=[2])
    assert torch.allclose(transfer(part, surrogate, random=True)[0], whole[2], atol=1e-5)


def test_images_are_resampled_for_a_surrogate_of_other_patches(fitted, smooth):
    detector, _ = fitted
    x = torch.rand(2, 3, 37, 30, generator=torch.Generator().manual_seed(1))
    sized = Resampled.where_needed(detector, x)
    multiple = detector.geometry.multiple
    assert isinstance(sized, Resampled)
    assert all(edge % multiple == 0 for edge in sized.size)
    flat = type("Flat", (), {
        "patch_scores": lambda self, x: x.flatten(2).mean(dim=2),
        "aggregate": lambda self, patch: patch.mean(dim=1),
    })()  # fmt: skip
    assert Resampled.where_needed(flat, x) is flat
    found = attack(flat, x, label=torch.tensor([0, 1]), attack="transfer", surrogate=detector)
    assert found.x_adv.shape == x.shape
    assert (found.distance > 0).all()


def test_missing_and_training_surrogates_and_masked_objectives_are_refused(fitted, smooth):
    detector, x = fitted
    label, training = torch.tensor([0, 1]), smooth().train()
    with pytest.raises(InputError, match="surrogate: attack 'transfer' needs"):
        attack(detector, x, label=label, attack="transfer")
    with pytest.raises(InputError, match="surrogate: is in training mode"):
        attack(detector, x, label=label, attack="transfer", surrogate=training)
    with pytest.raises(InputError, match="mask"):
        attack(detector, x, label=label, attack="transfer", surrogate=detector, objective="flip")
    blind = type("Blind", (), {
        "patch_scores": lambda self, x: torch.zeros(len(x), 3),
        "aggregate": lambda self, patch: patch.mean(dim=1),
    })()  # fmt: skip
    with pytest.raises(InputError, match="gradient"):
        attack(detector, x, label=label, attack="transfer", surrogate=blind)


class Scaled:
    """A scorer in another unit, of one more patch."""

    def __init__(self, scorer, unit):
        self.scorer, self.unit = scorer, unit

    def patch_scores(self, x):
        patch = self.unit * self.scorer.patch_scores(x)
        return torch.cat([patch, patch.amin(dim=1, keepdim=True)], dim=1)

    def aggregate(self, patch):
        return self.unit * self.scorer.aggregate(patch[:, :-1] / self.unit)


def test_of_several_surrogates_the_mean_in_their_own_units_is_attacked(smooth, images):
    x, label = images(3), torch.tensor([0, 1, 0])
    one, other = smooth(), smooth(seed=1)
    given = {"label": label, "attack": "transfer", "eps": 4 / 255}

    def moved(surrogate):
        made = attack(smooth(seed=2), x, surrogate=surrogate, **given).x_adv
        sign = 1 - 2 * label
        with torch.no_grad():
            return [
                float((sign * (s.aggregate(s.patch_scores(made)) - s.aggregate(s.patch_scores(x))))
                      .mean()) for s in (one, other)
            ]  # fmt: skip

    alone, both = (moved(one), moved(other)), moved([one, other])
    # each is hurt more than by what was made on the other alone
    assert both[0] > max(alone[1][0], 0)
    assert both[1] > max(alone[0][1], 0)
    # the unit of one does not weigh
    scaled = attack(smooth(seed=2), x, surrogate=[Scaled(one, 1.0), other], **given).x_adv
    larger = attack(smooth(seed=2), x, surrogate=[Scaled(one, 1000.0), other], **given).x_adv
    assert float((scaled - larger).abs().max()) < 1e-4 or torch.allclose(
        *(one.aggregate(one.patch_scores(made)) for made in (scaled, larger)), atol=1e-2
    )
    # one in a list is that one
    assert torch.equal(
        attack(other, x, surrogate=[one], **given).x_adv,
        attack(other, x, surrogate=one, **given).x_adv,
    )


def test_no_surrogates_and_one_of_several_in_training_mode_are_refused(smooth, images):
    problem = Problem.of(smooth(), images(1), label=torch.zeros(1).long(), eps=EPS)
    with pytest.raises(InputError, match="surrogate: expected at least one, got none"):
        transfer(problem, [])
    with pytest.raises(InputError, match="surrogate: is in training mode"):
        transfer(problem, [smooth(), smooth().train()])
    with pytest.raises(InputError, match="surrogate: attack 'transfer' needs"):
        attack(smooth(), images(1), label=torch.zeros(1), attack="transfer", surrogate=[])
