"""Objectives against the formulas of their papers, restated patch by patch."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from robustad.attacks import OBJECTIVES, LogitScale, Scores
from robustad.attacks.objectives import (
    MASKLESS,
    entropy,
    evading,
    image,
    margin,
    misorder,
    relaxed,
    section_l,
    segpgd,
    smooth,
)
from robustad.calibration import Platt, RawScore
from robustad.errors import InputError

MASK = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]]).bool()


def scores(**options):
    generator = torch.Generator().manual_seed(0)
    patch = 3 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    given = {"label": torch.tensor([0, 1, 1]), "mask": MASK, **options}
    return Scores(patch=patch, image=patch.amax(dim=1), **given)


def by_hand(name, found):
    """Loss of each image, one patch after the other."""
    values = []
    for z_row, m_row in zip(found.logit.tolist(), found.mask.tolist(), strict=True):
        rows = [(z, m, (1 if m else -1) * z) for z, m in zip(z_row, m_row, strict=True)]
        loss = [math.log1p(math.exp(-rz)) for *_, rz in rows]
        right = [rz > 0 for *_, rz in rows]
        if name == "masked_ce":
            value = sum(a for a, ok in zip(loss, right, strict=True) if ok) / len(rows)
        elif name == "masked_ce_balanced":
            parts = []
            for kind in (0, 1):
                kept = [
                    a * ok for a, ok, (_, m, _) in zip(loss, right, rows, strict=True) if m == kind
                ]
                if kept:
                    parts.append(sum(kept) / len(kept))
            value = sum(parts) / len(parts)
        elif name == "js":
            value = 0.0
            for *_, rz in rows:
                p = 1 / (1 + math.exp(-rz))
                both = [(p, 1.0), (1 - p, 0.0)]
                middle = [(a + b) / 2 for a, b in both]
                for side in (0, 1):
                    value += 0.5 * sum(
                        pair[side] * math.log(pair[side] / m)
                        for pair, m in zip(both, middle, strict=True)
                        if pair[side] > 0
                    )
            value /= len(rows)
        elif name == "margin":
            value = -sum(max(rz + 50, 0) for *_, rz in rows) / len(rows)
        elif name == "segpgd":
            lam = found.progress / 2
            value = sum(
                a * ((1 - lam) if ok else lam) for a, ok in zip(loss, right, strict=True)
            ) / len(rows)
        values.append(value)
    return values


@pytest.mark.parametrize("name", ["masked_ce", "masked_ce_balanced", "js", "margin", "segpgd"])
@pytest.mark.parametrize("scaled", [False, True])
def test_patch_objectives_are_their_formulas(name, scaled):
    scale = LogitScale(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([2.0, 0.5, 1.0]))
    found = scores(scale=scale if scaled else None, progress=0.6)
    assert np.allclose(OBJECTIVES[name](found), by_hand(name, found), atol=1e-9)


def test_segpgd_ends_at_half_the_cross_entropy():
    assert torch.allclose(segpgd(scores(progress=1.0)), OBJECTIVES["bce"](scores()) / 2)
    assert torch.allclose(segpgd(scores()), OBJECTIVES["masked_ce"](scores()))


def test_section_l_leaves_the_normal_patches_of_anomalous_images_alone():
    found = scores()
    expected = [
        found.patch[0].mean(), -found.patch[1].mean(), -found.patch[2, 1:3].mean()
    ]  # fmt: skip
    assert torch.allclose(section_l(found), torch.stack(expected))
    empty = scores(mask=torch.zeros(3, 4).bool())
    assert torch.allclose(section_l(empty)[1:], -found.patch[1:].mean(dim=1))


def test_the_relaxed_image_score_takes_more_patches():
    found, ordered = scores(top=1), scores().patch.sort(dim=1, descending=True).values
    sign = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    assert torch.allclose(relaxed(2)(found), sign * ordered[:, :2].mean(dim=1))
    assert torch.allclose(relaxed(1)(found), image(found))
    for all_of_them in (relaxed(4)(found), relaxed(9)(found), relaxed(None)(found)):
        assert torch.allclose(all_of_them, sign * ordered.mean(dim=1))
    assert torch.allclose(relaxed(2)(scores()), sign * ordered.mean(dim=1))  # top unknown


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_the_values(name):
    base = scores(progress=0.3, top=1).patch

    def value(patch):
        label, clean = torch.tensor([0, 1, 1]), base.flip(1)
        image = patch.amax(dim=1)
        return OBJECTIVES[name](
            Scores(patch=patch, image=image, label=label, mask=MASK, clean=clean)
        )

    assert torch.autograd.gradcheck(value, (base.clone().requires_grad_(True),), eps=1e-6)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in MASKLESS])
def test_masks_are_asked_for(name):
    with pytest.raises(InputError, match="mask: this objective needs the ground-truth masks"):
        OBJECTIVES[name](scores(mask=None))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_huge_logits_stay_finite(name):
    for size in (1e4, -1e4):
        patch = torch.full((1, 4), size, requires_grad=True)
        mask = torch.tensor([[True, False, True, False]])
        found = Scores(patch=patch, image=patch.amax(dim=1), label=torch.tensor([1]), mask=mask)
        value = OBJECTIVES[name](found)
        (gradient,) = torch.autograd.grad(value.sum(), patch)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()


def test_the_margin_stops_where_a_patch_is_wrong_enough():
    patch = torch.tensor([[-7.0, -2.0]], requires_grad=True)
    found = Scores(
        patch=patch, image=patch.amax(dim=1), label=torch.tensor([1]),
        mask=torch.tensor([[True, True]]),
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(margin(kappa=5.0)(found).sum(), patch)
    assert gradient.tolist() == [[0.0, -0.5]]


def test_logit_scales():
    values = torch.arange(101.0)
    scale = LogitScale.of_normal(values)
    assert float(scale.tau) == 95
    assert float(scale.temperature) == pytest.approx(float(values.std(unbiased=False)))
    clean = torch.stack([values, 2 * values + 5, torch.full_like(values, 3)])
    own = LogitScale.of_images(clean)
    assert own.tau.tolist() == [95, 195, 3]
    assert own.temperature[1] == 2 * own.temperature[0]
    assert own.temperature[2] == 1  # nothing to scale by
    assert torch.allclose(own.of(clean)[0], own.of(clean)[1], atol=1e-5)
    with pytest.raises(InputError, match=r"patch_scores: expected finite scores .* 2, 1 of them"):
        LogitScale.of_normal(torch.tensor([1.0, torch.nan]))
    with pytest.raises(InputError, match=r"patch_scores: expected finite scores .* got 0, 0 of"):
        LogitScale.of_normal(torch.zeros(0))
    with pytest.raises(InputError, match=r"scale: expected tau of shape \(\) or \(3,\), got \(2,"):
        LogitScale(torch.zeros(2), torch.ones(())).to(clean, 3)
    with pytest.raises(InputError, match="scale: expected a temperature > 0"):
        LogitScale(torch.zeros(()), torch.zeros(())).to(clean, 3)


@pytest.mark.parametrize("kind", ["platt", "raw"])
def test_evading_takes_off_the_predictive_entropy(kind):
    calibrator = RawScore()
    if kind == "platt":
        calibrator = Platt().fit([0.1, 0.2, 0.4, 0.3, 0.6, 0.8], [0, 0, 0, 1, 1, 1])
    at = torch.tensor([0.2, 0.45, 0.7], dtype=torch.float64, requires_grad=True)
    p = np.clip(calibrator.predict_proba(at.detach().numpy()), 1e-12, 1 - 1e-12)
    expected = -p * np.log(p) - (1 - p) * np.log(1 - p)
    found = entropy(at, calibrator)
    assert np.allclose(found.detach(), expected, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), at)
    step = 1e-6
    numeric = (entropy(at + step, calibrator) - entropy(at - step, calibrator)) / (2 * step)
    assert torch.allclose(gradient, numeric.detach(), atol=1e-4)
    given = Scores(patch=at[:, None], image=at, label=torch.tensor([0, 1, 0]), mask=None)
    combined = evading(image, calibrator, 3.0)(given)
    sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    assert np.allclose(combined.detach(), (sign * at).detach() - 3 * expected, atol=1e-5)
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="weight: expected a finite number >= 0"):
            evading(image, calibrator, weight)


@pytest.mark.parametrize("top", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("share", [0.05, 0.4, 3.0])
def test_the_smooth_mean_is_the_largest_over_capped_weights(top, share):
    """By a general solver; and its gradient by differences."""
    clean = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)).double()
    found = scores(clean=clean, top=top)
    made = smooth(share)(found)
    cap = 1 / min(top, 4)
    for i, value in enumerate(found.patch.numpy()):
        warm = share * float(clean[i].std(unbiased=False))

        def lost(w, value=value, warm=warm):
            return -(w @ value) + warm * float((w * np.log(w)).sum())

        best = minimize(
            lost, np.full(4, 0.25), method="SLSQP", bounds=[(1e-12, cap)] * 4,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-14},
        )  # fmt: skip
        assert float(found.sign[i] * made[i]) == pytest.approx(-best.fun, rel=1e-6, abs=1e-8)
    leaf = found.patch.clone().requires_grad_(True)

    def value(patch):
        return smooth(share)(dataclasses.replace(found, patch=patch))

    assert torch.autograd.gradcheck(value, (leaf,), eps=1e-6)


def test_misorder_is_flip_of_logits_squashed_around_two_levels():
    clean = torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0], [1.0, 9.0, 9.0, 1.0]])
    patch = torch.tensor([[3.0, 3.0, 5.0, 3.0], [2.0, 2.0, 0.0, 4.0], [2.0, 0.0, 3.0, 1.0]])
    given = {"patch": patch, "image": patch[:, 0], "label": torch.tensor([0, 1, 1]), "mask": MASK}
    z = 2 / np.sqrt(1.25)  # above the normal patches' level of 3, in their standard deviation
    own = [z / (1 + z) / 4, -(0.5 + 0.5 - 0.5 + 0.75) / 4, (0.5 + 0.0) / 2 - (-0.5 + 2 / 3) / 2]
    plain = [(3 * 3 / 4 + 5 / 6) / 4, -(2 * 2 / 3 + 0.8) / 4, (2 / 3 + 0.5) / 2 - (0.0 + 0.75) / 2]
    expected = [(a + b) / 2 for a, b in zip(own, plain, strict=True)]
    assert np.allclose(misorder(Scores(**given, clean=clean)), expected, atol=1e-6)
    known = Scores(**given, own=LogitScale.of_normal_patches(clean, MASK))
    assert np.allclose(misorder(known), expected, atol=1e-6)
    # another level of the detector
    scale = LogitScale(torch.tensor(1.0), torch.tensor(2.0)).to(patch, 3)
    z = (patch.double() - 1) / 2
    outside, inside = ~MASK, MASK
    squashed = z / (1 + z.abs())
    apart = (squashed * outside).sum(1) / outside.sum(1).clamp_min(1)
    apart = apart - (squashed * inside).sum(1) / inside.sum(1).clamp_min(1)
    found = misorder(Scores(**given, clean=clean, scale=scale))
    assert np.allclose(found, (np.array(own) + apart.numpy()) / 2, atol=1e-6)


def test_the_smooth_maximum_tends_to_the_maximum():
    found = scores(clean=torch.randn(3, 4, generator=torch.Generator().manual_seed(3)).double())
    spread = found.clean.std(dim=1, unbiased=False)
    sign = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    exact = sign * found.patch.amax(dim=1)
    assert torch.allclose(smooth(1e-3)(found), exact, atol=1e-3)
    expected = sign * (found.patch / (0.5 * spread)[:, None]).exp().sum(dim=1).log() * 0.5 * spread
    assert torch.allclose(smooth(0.5)(found), expected)
    flat = scores(clean=torch.zeros(3, 4, dtype=torch.float64))
    assert torch.isfinite(smooth(0.1)(flat)).all()
    for share in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="share: expected a finite number > 0"):
            smooth(share)
