import math

import numpy as np
import pytest
import torch
from torch import nn

import robustad
from robustad.attacks import attack
from robustad.attacks.access import find_access
from robustad.calibration import Platt
from robustad.certificates import SmoothedDetector, noisy_scores
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError, NotFittedError, StateError
from robustad.evaluation import evaluate
from robustad.verdict import Policy


def images(samples, *counts, **options):
    return [one.image for one in samples(*counts, **options)]


def test_score_is_the_median_of_the_copies_and_the_map_their_mean(detector, samples):
    x = detector.prepare(images(samples, 1, 2))
    patch = detector.patch_scores(x)
    draws = noisy_scores(detector.base, x, sigma=0.1, n=9)
    assert torch.allclose(detector.aggregate(patch), draws.median(dim=1).values, atol=1e-6)
    mean = torch.stack(
        [detector.base.patch_scores(copies).mean(dim=0) for copies in per_image(detector, x)]
    )
    shift = patch - mean
    assert torch.allclose(shift, shift[:, :1].expand_as(shift), atol=1e-6)
    assert float(detector(x)[1:].min()) > float(detector(x)[0])


def per_image(detector, x):
    for one in x:
        yield torch.cat([*detector.noise.copies(one[None], detector.draws)])


@pytest.mark.parametrize("draws", [1, 2, 9, 20])
def test_batches_and_other_images_change_nothing(detector, samples, draws):
    x = detector.prepare(images(samples, 2, 1))
    made = [
        SmoothedDetector(detector.base, sigma=0.1, draws=draws, batch_size=size).patch_scores(part)
        for size in (1, 7, 64)
        for part in (x, x[1:2])
    ]
    for whole, alone in zip(made[::2], made[1::2], strict=True):
        assert torch.allclose(whole, made[0], atol=1e-6)
        assert torch.allclose(alone[0], made[0][1], atol=1e-6)


def test_scores_with_and_without_a_gradient_agree(detector, samples):
    x = detector.prepare(images(samples, 1, 1))
    for size in (64, 3):  # at once, and recomputed chunk by chunk
        smoothed = SmoothedDetector(detector.base, sigma=0.1, draws=20, batch_size=size)
        leaf = x.clone().requires_grad_(True)
        graded = smoothed.patch_scores(leaf)
        assert torch.allclose(graded, smoothed.patch_scores(x), atol=1e-6)
        (gradient,) = torch.autograd.grad(smoothed.aggregate(graded).sum(), leaf)
        assert bool((gradient.flatten(1).abs().amax(dim=1) > 0).all())
        if size == 64:
            first = gradient
    assert torch.allclose(gradient, first, atol=1e-6)


def test_gradient_is_that_of_the_expected_score(linear, grey):
    base, x = linear(), grey(2).requires_grad_(True)
    smoothed = SmoothedDetector(base, sigma=0.05, draws=30)
    (gradient,) = torch.autograd.grad(smoothed(x).sum(), x)
    assert torch.allclose(gradient, base.weight.expand_as(x), atol=1e-4)
    quadratic = linear()
    quadratic.patch_scores = lambda x: (x.square() * base.weight).sum(dim=(1, 2, 3))[:, None]
    smoothed = SmoothedDetector(quadratic, sigma=0.05, draws=2000)
    (gradient,) = torch.autograd.grad(smoothed(x).sum(), x)
    assert torch.allclose(gradient, 2 * x.detach() * base.weight, atol=0.05)


def test_median_of_a_linear_score(linear, grey):
    base, x = linear(), grey(2)
    smoothed = SmoothedDetector(base, sigma=0.05, draws=4001)
    error = 1.2533 * 0.05 * base.length / math.sqrt(4001)
    assert torch.allclose(smoothed(x), base(x), atol=4 * error)


@pytest.mark.parametrize("name", ["pgd10_l2", "apgd10_l2", "adaptive_l2", "square50_l2", "fab5_l2"])
def test_certified_intervals_hold_what_l2_attacks_find_on_a_linear_score(linear, grey, name):
    base, x = linear(), grey(4, seed=3)
    sigma, radius, n = 0.08, 0.1, 1000
    smoothed = SmoothedDetector(base, sigma=sigma, draws=15)
    label = torch.tensor([0, 0, 1, 1])
    result = attack(
        smoothed, x, label=label, attack=name, eps=radius, threshold=float(base(x).mean())
    )
    ends = smoothed.intervals(x, [radius], n=n, test_draws=n)
    found = noisy_scores(base, result.x_worst, sigma=sigma, n=n).median(dim=1).values.numpy()
    assert (found >= ends.lower[:, 0]).all()
    assert (found <= ends.upper[:, 0]).all()
    if name not in ("square50_l2", "fab5_l2"):  # the others get near: the bound is attained
        moved = np.abs(found - base(x).numpy())
        assert (moved > 0.8 * radius * base.length).all()


@pytest.mark.parametrize("name", ["pgd5_l2", "autoattack_l2", "adaptive_l2"])
def test_certified_intervals_hold_what_l2_attacks_find_on_a_memory_bank(detector, samples, name):
    chosen = samples(1, 1, seed=5)
    x = detector.prepare([one.image for one in chosen])
    mask = torch.zeros_like(detector.patch_scores(x), dtype=torch.bool)
    mask[1, 5:7] = True
    radius, threshold = 0.2, float(detector(x).mean())
    options = {"queries": 20, "steps": 6} if name == "autoattack_l2" else {}
    if name == "adaptive_l2":
        small = SmoothedDetector(detector.base, sigma=0.1, draws=1)
    else:
        small = detector
    result = attack(
        small, x, label=torch.tensor([0, 1]), mask=mask, attack=name, eps=radius,
        threshold=threshold, **options,
    )  # fmt: skip
    assert bool((result.distance <= radius + 1e-5).all())
    ends = detector.intervals(x, [radius], n=200, alpha=0.01, test_draws=200)
    found = noisy_scores(detector.base, result.x_worst, sigma=0.1, n=200).median(dim=1).values
    assert (found.numpy() >= ends.lower[:, 0]).all()
    assert (found.numpy() <= ends.upper[:, 0]).all()


def test_it_is_white_box_and_evaluation_finds_nothing_wrong(detector, samples):
    chosen = samples(2, 2, seed=3)
    x = detector.prepare([chosen[0].image])
    assert find_access(detector, x) == "white"
    found = evaluate(detector, chosen, attacks=["pgd3_l2"], eps=0.5, batch_size=4)
    fired = {check.name: check.fired for check in found.checks}
    assert fired["randomised"] is False
    assert fired["zero_gradient"] is False
    assert found.conditions["pgd3_l2"].metrics.auroc <= found.clean.metrics.auroc
    assert found.clean.metrics.pixel_auroc > 0.5


def test_saved_with_its_base_and_read_back(detector, samples, tmp_path):
    detector.calibrator = Platt.from_dict(
        {"method": "platt", "slope": 9.0, "intercept": -2.0, "n_normal": 3, "n_anomalous": 3,
         "prevalence": 0.5}
    )  # fmt: skip
    detector.policy = Policy(threshold=0.4)
    try:
        detector.save(tmp_path / "smoothed.safetensors")
        loaded = robustad.load(tmp_path / "smoothed.safetensors")
        assert isinstance(loaded, SmoothedDetector)
        assert isinstance(loaded.base, AnomalyDINO)
        assert loaded.config() == detector.config()
        assert loaded.policy == detector.policy
        given = images(samples, 1, 1)
        before, after = detector.predict(given), loaded.predict(given)
        np.testing.assert_allclose(after.score, before.score, atol=1e-6)
        np.testing.assert_allclose(after.probability, before.probability, atol=1e-5)
    finally:
        detector.calibrator, detector.policy = None, Policy()


class Halve(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.tensor(0.5))

    def forward(self, x):
        return 0.5 + self.factor * (x - 0.5)


def test_a_denoiser_sees_unclipped_copies_and_is_not_saved(samples, tmp_path):
    seen = []

    def denoiser(x):
        seen.append(float(x.max()))
        return x.clamp(0, 1) * 0.5

    base = AnomalyDINO("filters", image_size=32)
    smoothed = SmoothedDetector(base, sigma=0.3, draws=4, denoiser=denoiser)
    smoothed.fit(images(samples, 1, 0))
    assert max(seen) > 1
    assert smoothed.predict(images(samples, 1, 0)).score.shape == (1,)
    assert smoothed.config().denoiser == "denoiser"
    with pytest.raises(InputError, match="denoiser: is not saved with a detector"):
        smoothed.save(tmp_path / "x.safetensors")
    assert not [*tmp_path.iterdir()]
    smoothed.denoiser = None
    smoothed.denoiser = Halve()
    x = smoothed.prepare(images(samples, 1, 0)).requires_grad_(True)
    assert smoothed(x).requires_grad
    assert "denoiser.factor" in smoothed.state_dict()


def test_fit_takes_other_noise_than_scoring_and_forgets_calibration(samples):
    given = images(samples, 1, 0)
    base = AnomalyDINO("filters", image_size=32, whiten=False)
    smoothed = SmoothedDetector(base, sigma=0.2, draws=3)
    smoothed.calibrator, smoothed.policy = object(), Policy(threshold=0.9)
    smoothed.fit(given, copies=2)
    assert base.bank.shape[0] == 2 * 16
    assert smoothed.calibrator is None
    assert smoothed.policy == Policy()
    assert float(smoothed(smoothed.prepare(given))) > 1e-4  # a copy seen before would score 0


def test_a_base_without_fit_or_not_fitted(linear, samples):
    with pytest.raises(InputError, match="base: Linear has no fit; train it before"):
        SmoothedDetector(linear()).fit(images(samples, 1, 0))
    empty = SmoothedDetector(AnomalyDINO("filters", image_size=32))
    with pytest.raises(NotFittedError, match="no memory bank yet"):
        empty.predict(images(samples, 1, 0))


def test_a_base_that_cannot_be_saved_or_smoothed(linear, detector, tmp_path):
    with pytest.raises(InputError, match="a detector of method 'linear' cannot be saved"):
        SmoothedDetector(linear()).save(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="base: expected a detector that is not smoothed"):
        SmoothedDetector(detector)
    odd = linear()
    odd.aggregate = lambda patch: patch.square().mean(dim=1)
    with pytest.raises(StateError, match="does not move along when all patch scores do"):
        SmoothedDetector(odd)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma: expected a standard deviation > 0"),
        ({"draws": 0}, "draws: expected >= 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected >= 1, got 0"),
    ],
)
def test_bad_options(linear, options, message):
    with pytest.raises(InputError, match=message):
        SmoothedDetector(linear(), **options)


def test_bad_scores_and_images(linear, grey):
    base = linear()
    with pytest.raises(InputError, match=r"x: expected a floating-point tensor \(B, 3, H, W\)"):
        noisy_scores(base, grey(1)[0], sigma=0.1, n=3)
    for n, first in ((0, 0), (3, -1)):
        with pytest.raises(InputError, match="n and first: expected n >= 1 and first >= 0"):
            noisy_scores(base, grey(1), sigma=0.1, n=n, first=first)
    base.weight[0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"copy of images \[0, 1\] has a score that is not finite"):
        noisy_scores(base, grey(2), sigma=0.1, n=3)
    with pytest.raises(InputError, match="copies: expected >= 1, got 0"):
        SmoothedDetector(AnomalyDINO("filters", image_size=32)).fit([], copies=0)


def test_damaged_configurations(detector, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    detector.save(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()["robustad"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for change, message in (
        (('"base":"anomaly_dino"', '"base":"smoothed"'), "base: method 'smoothed' is unknown"),
        (('"sigma":0.1', '"sigma":-0.1'), "sigma: Input should be greater than 0"),
    ):
        assert change[0] in header
        save_file(tensors, path, metadata={"robustad": header.replace(*change)})
        with pytest.raises(StateError, match=message):
            robustad.load(path)
