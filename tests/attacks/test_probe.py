import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from robustad.attacks import LinearProbe, attack
from robustad.attacks.probe import FeatureScorer
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError

EPS = 8 / 255


@pytest.fixture
def detector():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    return AnomalyDINO("filters", image_size=32).fit(x)


def batch(seed, count=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 3, 32, 32, generator=generator)
    mask = torch.zeros(count, 16, dtype=torch.bool)
    mask[:, 5:7] = True
    x[:, :, 8:16, 8:24] *= 0.3  # patches 5 and 6
    return x, mask


@pytest.mark.parametrize("C", [1.0, 0.01])
def test_matches_scikit_learn_on_standardised_features(detector, C):
    batches = [batch(0), batch(1, 3)]
    probe = LinearProbe.fit(detector, batches, C=C)
    with torch.no_grad():
        features = torch.cat([detector.patch_features(x).flatten(0, 1) for x, _ in batches])
    target = torch.cat([mask.flatten() for _, mask in batches]).numpy()
    scaler = StandardScaler()
    model = make_pipeline(scaler, LogisticRegression(C=C, max_iter=5000, tol=1e-8))
    model.fit(features.double().numpy(), target)
    expected = model.decision_function(features.double().numpy())
    found = probe.logits(features[None])[0].numpy()
    assert probe.weight.dtype == torch.float32
    assert probe.weight.shape == (43,)
    assert np.allclose(found, expected, atol=0.05)
    assert np.ptp(expected) > 2


def test_the_loss_is_the_mean_cross_entropy(detector):
    x, mask = batch(0)
    probe = LinearProbe.fit(detector, [(x, mask)])
    logits = probe.logits(detector.patch_features(x))
    expected = [
        F.binary_cross_entropy(torch.sigmoid(z.double()), m.double())
        for z, m in zip(logits, mask, strict=True)
    ]
    assert torch.allclose(probe.loss(detector, x, mask).double(), torch.stack(expected), atol=1e-5)


def test_fgsm_is_one_step_along_the_sign_of_the_losss_gradient(detector):
    """x + eps sign(grad of the mean patch-wise BCE), the study's attack."""
    x, mask = batch(2)
    probe = LinearProbe.fit(detector, [batch(0)])
    leaf = x.clone().requires_grad_(True)
    logits = detector.patch_features(leaf) @ probe.weight + probe.bias
    loss = (
        F.binary_cross_entropy_with_logits(logits, mask.float(), reduction="sum") / mask[0].numel()
    )
    loss.backward()
    expected = (x + EPS * leaf.grad.sign()).clamp(0, 1)
    label = torch.tensor([1, 1, 1, 0])  # the probe looks at masks, not at labels
    found = attack(detector, x, label=label, mask=mask, attack="fgsm_probe", probe=probe, eps=EPS)
    # the sign of a gradient next to zero may differ by rounding
    clear = leaf.grad.abs() > 1e-6
    assert clear.float().mean() > 0.99
    assert torch.allclose(found.x_adv[clear], expected[clear], atol=1e-6)
    with torch.no_grad():
        assert (probe.loss(detector, found.x_adv, mask) > probe.loss(detector, x, mask)).all()
        assert torch.equal(found.score, detector(found.x_adv))


def test_more_steps_go_further(detector):
    x, mask = batch(2)
    probe = LinearProbe.fit(detector, [batch(0)])
    options = {"label": mask.any(1).long(), "mask": mask, "attack": "fgsm_probe", "probe": probe}
    once, often = attack(detector, x, **options), attack(detector, x, steps=10, **options)
    with torch.no_grad():
        assert (
            probe.loss(detector, often.x_adv, mask) > probe.loss(detector, once.x_adv, mask)
        ).all()


@pytest.mark.parametrize("fill", [True, False])
def test_one_kind_of_patch_is_not_enough(detector, fill):
    x, mask = batch(0)
    count = mask.numel() if fill else 0
    with pytest.raises(
        InputError,
        match=f"probe: expected both normal and anomalous .* got {count} anomalous of 64",
    ):
        LinearProbe.fit(detector, [(x, torch.full_like(mask, fill))])


def test_no_images_are_not_enough(detector):
    with pytest.raises(InputError, match=r"probe: expected both .* got 0 anomalous of 0"):
        LinearProbe.fit(detector, [])


def test_detectors_show_their_features(detector, linear):
    assert isinstance(detector, FeatureScorer)
    assert not isinstance(linear((3, 8, 8))[0], FeatureScorer)
