import pytest
import torch

from robustad.attacks import attack
from robustad.attacks.guide import guide
from robustad.attacks.problem import Problem
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError

LABEL = torch.tensor([0, 1, 0, 1])


@pytest.fixture(scope="module")
def fitted():
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.avg_pool2d(x, 9, stride=1, padding=4) * 2 - 0.5
    x = x.clamp(0, 1)
    x[3::2, :, 8:16, 8:16] = 1 - x[3::2, :, 8:16, 8:16].flip(3)
    return AnomalyDINO("filters", image_size=32, top_fraction=2).fit(x[:2]), x[2:]


@pytest.mark.parametrize("name", ["guide20", "guide20_l2"])
def test_normal_images_leave_the_bank_and_anomalous_ones_come_to_it(fitted, name):
    detector, x = fitted
    eps = 1.0 if name.endswith("l2") else 8 / 255
    found = attack(detector, x, label=LABEL, attack=name, eps=eps)
    assert (found.distance <= eps + 1e-5).all()
    assert ((1 - 2 * LABEL) * (found.score - found.clean_score) > 0).all()


def test_passes_are_counted(fitted):
    detector, x = fitted
    problem = Problem.of(detector, x, label=LABEL, eps=0.03)
    calls = []
    inner = detector.backbone.forward
    detector.backbone.forward = lambda *a, **k: (calls.append(1), inner(*a, **k))[1]
    try:
        guide(problem, steps=7, rounds=3)
    finally:
        del detector.backbone.forward
    assert problem.meter.forward.tolist() == [len(calls)] * 4
    assert problem.meter.backward.tolist() == [7] * 4


def test_masks_choose_the_patches_and_draws_do_not_depend_on_the_batch(fitted):
    detector, x = fitted
    mask = torch.zeros(4, len(detector.patch_scores(x)[0]), dtype=torch.bool)
    mask[1, 0] = mask[3, 3] = True
    whole = guide(Problem.of(detector, x, label=LABEL, mask=mask, eps=0.03), steps=6, rounds=2)
    for i in (0, 1):
        part = Problem.of(
            detector,
            x[i : i + 1],
            label=LABEL[i : i + 1],
            mask=mask[i : i + 1],
            eps=0.03,
            seeds=[i],
        )
        one = guide(part, steps=6, rounds=2)
        scores = [part.values(y) for y in (one, whole[i : i + 1])]
        assert torch.allclose(*scores, atol=1e-3)


def test_options_and_detectors_that_do_not_fit_are_refused(fitted, smooth, images):
    detector, x = fitted
    problem = Problem.of(detector, x, label=LABEL, eps=0.03)
    with pytest.raises(InputError, match=r"rounds: expected 1..2 \(steps\), got 3"):
        guide(problem, steps=2, rounds=3)
    with pytest.raises(InputError, match=r"far: expected a share in \(0, 1\], got 0"):
        guide(problem, far=0)
    with pytest.raises(InputError, match="steps: expected >= 1"):
        guide(problem, steps=0)
    with pytest.raises(InputError, match="the guide attack needs patch_features"):
        attack(smooth(), images(1), label=LABEL[:1], attack="guide")
    scorer = smooth()
    scorer.patch_features = lambda x: x
    with pytest.raises(InputError, match=r"the guide attack needs a bank \(M, D\)"):
        attack(scorer, images(1), label=LABEL[:1], attack="guide")
