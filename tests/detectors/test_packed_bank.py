import copy
import pickle

import numpy as np
import pytest
import torch

from robustad.detectors import AnomalyDINO
from robustad.errors import InputError


def fitted(seed=0):
    pictures = np.random.default_rng(seed).integers(0, 200, (2, 64, 64, 3), np.uint8)
    return AnomalyDINO("filters", image_size=64).fit(pictures)


IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_detector_fitted_in_inference_mode_can_be_attacked():
    expected = fitted().patch_scores(IMAGE)
    made = AnomalyDINO("filters", image_size=64)
    with torch.inference_mode():
        made.fit(np.random.default_rng(0).integers(0, 200, (2, 64, 64, 3), np.uint8))
        assert torch.equal(made.patch_scores(IMAGE), expected)
    image = IMAGE.clone().requires_grad_()
    made.patch_scores(image).sum().backward()
    assert image.grad.abs().max() > 0


def test_a_detector_made_in_inference_mode():
    with torch.inference_mode():
        made = copy.deepcopy(fitted())
        assert made.bank.is_inference()
        torch.testing.assert_close(made.patch_scores(IMAGE), fitted().patch_scores(IMAGE))


def test_a_copy_does_not_take_a_changed_bank_for_the_packed_one():
    one, other = fitted(0), fitted(1)
    for _ in range(2):
        one.load_state_dict(one.state_dict())
    one.patch_scores(IMAGE)
    for made in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        for _ in range(3):
            made.load_state_dict(other.state_dict())
            assert torch.equal(made.patch_scores(IMAGE), other.patch_scores(IMAGE))
    assert torch.equal(one.patch_scores(IMAGE), fitted(0).patch_scores(IMAGE))


def test_a_bank_of_another_dtype_is_packed_in_float32():
    made = fitted()
    expected = made.patch_scores(IMAGE)
    made.bank = made.bank.double()
    torch.testing.assert_close(made.patch_scores(IMAGE), expected)


def test_compiled_scores_follow_the_bank():
    made, other = fitted(0), fitted(1)
    compiled = torch.compile(made.patch_scores, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(IMAGE), made.patch_scores(IMAGE))
    made.load_state_dict(other.state_dict())
    torch.testing.assert_close(compiled(IMAGE), other.patch_scores(IMAGE))


@pytest.mark.parametrize("value", [2.0, float("nan"), float("inf")])
def test_a_saved_bank_that_is_not_of_unit_vectors(value):
    made = fitted()
    config = made.config().model_dump()
    tensors = {name: at.clone() for name, at in made.saved_tensors().items()}
    again = AnomalyDINO.from_config(config, tensors)
    assert torch.equal(again.patch_scores(IMAGE), made.patch_scores(IMAGE))
    tensors["bank"][3, 2] = value
    with pytest.raises(InputError, match=r"^bank: expected finite vectors of length 1 \(or 0\)$"):
        AnomalyDINO.from_config(config, tensors)
