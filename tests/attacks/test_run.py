import warnings

import numpy as np
import pytest
import torch
from torch import nn

import robustad
from robustad.attacks import LinearProbe, attack
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError

EPS = 8 / 255


def normal(count=4):
    return torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize("name", ["fgsm", "pgd10"])
def test_linear_scores_have_a_known_answer(linear, images, name):
    x = images()
    x[:, :, 0], x[:, :, 1] = 0.0, 1.0
    scorer, weight = linear(x.shape[1:])
    label = torch.tensor([0, 1, 0, 1])
    found = attack(scorer, x, label=label, attack=name, eps=EPS)
    sign = torch.where(label == 0, 1.0, -1.0)[:, None, None, None]
    expected = (x + EPS * sign * weight.mean(dim=0).sign()).clamp(0, 1)
    assert torch.allclose(found.x_adv, expected, atol=1e-6)
    assert torch.allclose(found.distance, torch.full((4,), EPS), atol=1e-6)
    assert torch.allclose(found.clean_patch_scores, scorer.patch_scores(x))
    assert torch.equal(found.patch_scores, scorer.patch_scores(found.x_adv))
    assert torch.equal(found.clean_score, scorer.aggregate(found.clean_patch_scores))
    assert torch.equal(found.score, scorer.aggregate(found.patch_scores))
    assert (found.score > found.clean_score).tolist() == [True, False, True, False]


def test_flip_of_a_linear_scorer_has_a_known_answer(linear, images):
    x = images()
    scorer, weight = linear(x.shape[1:], patches=4)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    found = attack(scorer, x, label=mask.any(dim=1).long(), mask=mask, objective="flip", eps=EPS)
    for image, adversarial, inside in zip(x, found.x_adv, mask, strict=True):
        direction = torch.zeros_like(image)
        if (~inside).any():
            direction += weight[~inside].mean(dim=0)
        if inside.any():
            direction -= weight[inside].mean(dim=0)
        expected = (image + EPS * direction.sign()).clamp(0, 1)
        assert torch.allclose(adversarial, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["fgsm", "pgd10", "pgd100"])
def test_a_real_detector_is_fooled_within_the_ball(name):
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    detector = AnomalyDINO("filters", image_size=32).fit(x[:1])
    label = torch.tensor([0, 1, 0, 1])
    found = attack(detector, x, label=label, attack=name, eps=EPS)
    gain = (1 - 2 * label) * (found.score - found.clean_score)
    assert (gain[1:] > 0).all()
    assert float(found.x_adv.min()) >= 0
    assert float(found.x_adv.max()) <= 1
    assert (found.distance <= EPS + 1e-6).all()
    exact = (found.x_adv - x).abs().amax(dim=(1, 2, 3))
    assert torch.equal(found.distance, exact)
    assert found.x_adv.dtype == torch.float32
    assert not found.x_adv.requires_grad
    assert np.allclose(detector.aggregate(detector.patch_scores(found.x_adv)), found.score)


def test_more_steps_and_a_larger_ball_are_stronger(smooth, images):
    scorer, x = smooth(), images(8)
    options = {"label": normal(8), "eps": EPS}
    one = attack(scorer, x, attack="fgsm", **options).score
    ten = attack(scorer, x, attack="pgd10", **options).score
    wide = attack(scorer, x, attack="pgd10", label=normal(8), eps=2 * EPS).score
    assert (ten >= one - 1e-4).all()
    assert (wide > ten).all()


def test_pgd_from_the_clean_image_never_helps_the_defender(scorer, images):
    """On a wild score, where single steps overshoot."""
    wild = scorer(lambda x: torch.sin(300 * x.flatten(2).mean(dim=2)))
    x = images(12)
    label = torch.tensor([0, 1] * 6)
    found = attack(wild, x, label=label, attack="pgd10", eps=0.05)
    gain = (1 - 2 * label) * (found.score - found.clean_score)
    assert (gain >= 0).all()
    overshot = attack(wild, x, label=label, attack="fgsm", eps=0.05)
    assert ((1 - 2 * label) * (overshot.score - overshot.clean_score) < 0).any()


def test_random_starts_do_not_depend_on_the_batch(smooth, images):
    scorer, x = smooth(), images()
    options = {"attack": "pgd10", "random": True, "eps": 0.05, "steps": 3}
    whole = attack(scorer, x, label=normal(), seeds=[3, 1, 4, 15], **options)
    for i, seed in enumerate([3, 1, 4, 15]):
        one = attack(scorer, x[i : i + 1], label=normal(1), seeds=[seed], **options)
        assert torch.allclose(one.x_adv[0], whole.x_adv[i], atol=1e-5)
    default = attack(scorer, x, label=normal(), **options)
    same = attack(scorer, x, label=normal(), seeds=[0, 1, 2, 3], **options)
    assert torch.equal(default.x_adv, same.x_adv)
    still = attack(scorer, x, label=normal(), eps=0.05, steps=3)
    assert not torch.equal(default.x_adv, still.x_adv)


def test_objectives_may_be_callables(linear, images):
    x = images()
    scorer, weight = linear(x.shape[1:], patches=4)
    seen = []

    def second_patch(scores):
        seen.append((scores.patch.shape, scores.image.shape, scores.label.tolist(), scores.mask))
        return scores.patch[:, 1]

    found = attack(scorer, x, label=normal(), objective=second_patch, attack="fgsm", eps=EPS)
    assert torch.allclose(found.x_adv, (x + EPS * weight[1].sign()).clamp(0, 1), atol=1e-6)
    assert seen == [((4, 4), (4,), [0, 0, 0, 0], None)]
    with pytest.raises(InputError, match=r"objective: expected one loss an image"):
        attack(scorer, x, label=normal(), objective=lambda s: s.patch.mean())


def test_steps_make_fgsm_iterative(smooth, images):
    scorer, x = smooth(), images()
    made = attack(scorer, x, label=normal(), attack="fgsm", steps=10)
    ten = attack(scorer, x, label=normal(), attack="pgd10")
    assert torch.equal(made.x_adv, ten.x_adv)


@pytest.mark.parametrize("options", [{"random": True}, {"step_size": 0.1}])
def test_options_that_a_single_step_would_ignore_are_refused(smooth, images, options):
    [name] = options
    with pytest.raises(InputError, match=f"{name}: attack 'fgsm' is one step of eps"):
        attack(smooth(), images(), label=normal(), attack="fgsm", **options)


def test_small_excursions_are_clipped(smooth, images):
    scorer, x = smooth(), images()
    x[0, 0, 0, 0], x[1, 1, 1, 1] = -5e-4, 1.0005
    found = attack(scorer, x, label=normal(), attack="fgsm")
    inside = attack(scorer, x.clamp(0, 1), label=normal(), attack="fgsm")
    assert torch.equal(found.x_adv, inside.x_adv)
    assert (found.distance <= EPS + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_images_are_left_alone(linear, images, dtype):
    x = images().to(dtype)
    before = x.clone()
    scorer, _ = linear(x.shape[1:])
    found = attack(scorer, x, label=normal(), attack="pgd10")
    assert torch.equal(x, before)
    assert found.x_adv.dtype == dtype
    assert not x.requires_grad


def test_parameters_are_left_alone(smooth, images):
    scorer = smooth()
    first, *rest = scorer.parameters()
    first.requires_grad_(False)
    attack(scorer, images(), label=normal(), attack="pgd10")
    assert not first.requires_grad
    assert all(p.requires_grad for p in rest)
    assert all(p.grad is None for p in scorer.parameters())
    with pytest.raises(RuntimeError, match="on purpose"):
        attack(scorer, images(), label=normal(), objective=_broken)
    assert all(p.requires_grad for p in rest)


def _broken(scores):
    raise RuntimeError("on purpose")


def test_a_scorer_need_not_be_a_module(images):
    class Plain:
        def patch_scores(self, x):
            return x.flatten(2).mean(dim=2)

        def aggregate(self, patch_scores):
            return patch_scores.amax(dim=1)

    found = attack(Plain(), images(), label=normal(), attack="fgsm")
    assert (found.score > found.clean_score).all()
    assert isinstance(found, robustad.AttackResult)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, r"eps: expected a fraction of the pixel range in \(0, 1\], got 0"),
        ({"eps": -0.1}, "eps: .* got -0.1"),
        ({"eps": 8.0}, "eps: .* got 8.0"),
        ({"eps": float("nan")}, "eps: .* got nan"),
        ({"attack": "squares"}, "attack: expected one of fgsm_probe, fgsm, .* got 'squares'"),
        (
            {"objective": "carlini"},
            r"objective: expected one of \['bce', 'flip', 'image', .*\], got 'carlini'",
        ),
        ({"objective": "flip"}, "mask: this objective needs the ground-truth masks"),
        ({"attack": "fgsm_probe"}, "probe: attack 'fgsm_probe' needs a fitted probe and masks"),
        (
            {"attack": "fgsm_probe", "probe": LinearProbe(torch.ones(2), 0.0)},
            "mask: attack 'fgsm_probe' needs a fitted probe and masks",
        ),
        (
            {
                "attack": "fgsm_probe",
                "probe": LinearProbe(torch.ones(2), 0.0),
                "mask": torch.zeros(4, 6, dtype=torch.bool),
            },
            "detector: attack 'fgsm_probe' needs patch_features, which Scorer does not have",
        ),
        ({"mask": torch.zeros(4, 5).bool()}, r"mask: expected patch masks \(4, 6\), got \(4, 5\)"),
        ({"mask": torch.zeros(4, 8, 8).bool()}, r"mask: expected patch masks \(4, 6\), got"),
        ({"label": torch.zeros(3)}, r"label: expected 4 values of 0 or 1, got shape \(3,\)"),
        ({"label": torch.tensor([0, 1, 2, 1])}, r"label: .* with values \[0, 1, 2\]"),
        ({"label": torch.zeros(4, 1)}, r"label: .* got shape \(4, 1\)$"),
        ({"steps": 0}, "steps: expected >= 1, got 0"),
        ({"step_size": 0.0}, "step_size: expected > 0, got 0"),
        ({"random": True, "seeds": [1, 2]}, "seeds: expected one an image, 4, got 2"),
        ({"random": True, "seeds": []}, "seeds: expected one an image, 4, got 0"),
    ],
)
def test_bad_options(smooth, images, options, message):
    with pytest.raises(InputError, match=message):
        attack(smooth(), images(), **{"label": normal(), **options})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 255, r"x: expected finite values in \[0, 1\], got .* normalisation belongs"),
        (lambda x: x - 0.5, r"x: expected finite values in \[0, 1\], got -"),
        (lambda x: x / 0, r"x: expected finite values in \[0, 1\]"),
        (lambda x: x * torch.nan, r"x: expected finite values in \[0, 1\], got nan"),
        (lambda x: x[0], r"x: expected a floating-point tensor \(B, 3, H, W\), got \(3, 8, 8\)"),
        (lambda x: x[:0], r"x: expected a floating-point tensor .* got \(0, 3, 8, 8\)"),
        (lambda x: (x * 255).byte(), r"x: expected a floating-point tensor .* torch.uint8"),
    ],
)
def test_bad_images(smooth, images, change, message):
    x = change(images())
    with pytest.raises(InputError, match=message):
        attack(smooth(), x, label=normal(len(x)))


def test_detectors_in_training_mode_are_refused(smooth, images):
    with pytest.raises(InputError, match=r"is in training mode; call detector\.eval"):
        attack(smooth().train(), images(), label=normal())


def test_detectors_without_a_gradient_are_refused(scorer, images):
    rounded = scorer(lambda x: x.detach().flatten(2).mean(dim=2))
    with pytest.raises(InputError, match="detector: its patch scores carry no gradient"):
        attack(rounded, images(), label=normal())
    broken = scorer(lambda x: (x.flatten(2) - x.flatten(2)).sqrt().sum(dim=2))
    with pytest.raises(InputError, match=r"its gradient is not finite for images \[0, 1, 2, 3\]"):
        attack(broken, images(), label=normal())


def test_a_batch_norm_in_eval_mode_is_not_updated(scorer, images):
    norm = nn.BatchNorm2d(3)
    made = scorer(nn.Sequential(norm, nn.Flatten()))
    before = norm.running_mean.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(made, images(), label=normal())
    assert torch.equal(norm.running_mean, before)
