import numpy as np
import pytest
import torch

from robustad.errors import InputError, WeightsError
from robustad.foreground.augment import augmented
from robustad.foreground.gradcam import GradCAM


def images(discs):
    pixels = np.stack([sample.image for sample in discs[0]])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def test_with_a_classifier_it_is_grad_cam(resnet, discs):
    cam, x = GradCAM("resnet18", resnet[0]), images(discs)
    assert cam.has_classifier
    maps, classes = cam(x)
    model = cam.model
    for i in range(len(x)):
        kept = {}

        def hook(module, args, out, kept=kept):
            out.retain_grad()
            kept["features"] = out

        handle = model.layer4.register_forward_hook(hook)
        one = ((x[i : i + 1] - cam.mean) / cam.std).requires_grad_()
        logits = model(one)
        handle.remove()
        assert int(logits.argmax()) == int(classes[i])
        logits[0, classes[i]].backward()
        features = kept["features"]
        weights = features.grad.mean(dim=(2, 3))[0]
        expected = torch.relu((weights[:, None, None] * features[0]).sum(0)).detach()
        torch.testing.assert_close(maps[i], expected / expected.max().clamp(min=1e-12))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_trunk_finds_what_differs_from_the_edge(resnet, discs):
    cam, x = GradCAM("resnet18", resnet[1]), images(discs)
    assert not cam.has_classifier
    assert cam.contrast == 0.0
    saliency = cam.saliency(x, soft=3, hard=2)
    assert saliency.shape == x[:, 0].shape
    for values, disc in zip(saliency.numpy(), discs[1], strict=True):
        assert values[disc].mean() > 2 * values[~disc].mean()
        assert values.min() == 0.0
        assert values.max() == 1.0


def test_an_image_does_not_depend_on_its_batch(resnet, discs):
    cam, x = GradCAM("resnet18", resnet[1]), images(discs)
    together = cam.saliency(x, soft=5, hard=4, contrast=0.5, seed=3)
    alone = cam.saliency(x[1:2], soft=5, hard=4, contrast=0.5, seed=3)
    torch.testing.assert_close(alone[0], together[1], atol=1e-4, rtol=0)
    other = cam.saliency(x, soft=5, hard=4, contrast=0.5, seed=4)
    assert not torch.allclose(other, together, atol=1e-4)


def test_nothing_to_see_gives_zero(resnet):
    saliency = GradCAM("resnet18", resnet[1]).saliency(
        torch.full((1, 3, 64, 64), 0.5), soft=1, hard=0
    )
    assert float(saliency.max()) <= 1.0
    assert not saliency.isnan().any()


def test_augmentations_are_soft_and_hard(discs):
    x = images(discs)
    soft, hard = augmented(x, seed=0, soft=9, hard=8)
    assert torch.equal(soft[0], x)
    assert len(soft) == 9
    assert len(hard) == 8
    for variant in (*soft, *hard):
        assert variant.shape == x.shape
        assert 0.0 <= float(variant.min()) <= float(variant.max()) <= 1.0
    gentle = max(float((variant - x).abs().mean()) for variant in soft)
    harsh = min(float((variant - x).abs().mean()) for variant in hard)
    assert gentle < 0.15
    assert all(float((variant - x).abs().mean()) > 0.001 for variant in soft[1:])
    assert harsh > 0.03
    again = augmented(x, seed=0, soft=9, hard=8)
    assert all(torch.equal(a, b) for a, b in zip(soft + hard, again[0] + again[1], strict=True))


def test_images_have_to_be_square(resnet):
    with pytest.raises(InputError, match="images: expected square ones"):
        GradCAM("resnet18", resnet[1]).saliency(torch.rand(1, 3, 64, 32), soft=1, hard=0)


def test_weights_that_are_missing_or_foreign(tmp_path, resnet):
    with pytest.raises(WeightsError, match="no such checkpoint"):
        GradCAM("resnet18", tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="does not fit the model"):
        GradCAM("convnext_atto", resnet[0])
    with pytest.raises(InputError, match=r"expected a CNN with feature maps"):
        GradCAM("vit_tiny_patch16_224", "random")
