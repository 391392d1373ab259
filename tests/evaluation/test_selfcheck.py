"""Detectors with a planted fault are named; healthy ones raise no flag."""

import numpy as np
import pytest
import torch

from robustad.detectors import AnomalyDINO, PatchGuard
from robustad.errors import InputError
from robustad.evaluation import evaluate, selfcheck
from robustad.evaluation.checks import CHECKS
from robustad.networks import NetworkConfig


def flags(detector, data, **options):
    found = selfcheck(detector, data, steps=6, queries=60, images=5, **options)
    assert [check.name for check in found] == list(CHECKS)
    return {check.name for check in found if check.fired}


@pytest.fixture
def data(samples):
    return samples(0, 10)


def test_a_linear_detector_is_healthy(redness, data):
    assert flags(redness(), data) == set()


def test_a_nearest_neighbour_detector_is_healthy(samples):
    data = samples(0, 10)
    good = [sample.image for sample in samples(50, 8) if sample.label == 0]
    detector = AnomalyDINO("filters", image_size=16).fit(np.stack(good))
    assert flags(detector, data) == set()


def test_a_network_is_healthy(data):
    torch.manual_seed(0)
    small = NetworkConfig(image_size=28, depth=1, embed_dim=32, num_heads=2)
    assert flags(PatchGuard(small, top_k=2), data) == set()


def test_quantised_scores(redness, data):
    class Quantised(redness):
        def patch_scores(self, x):
            return (super().patch_scores(x) * 50).round() / 50

    found = flags(Quantised(), data)
    assert "zero_gradient" in found
    assert "train_mode" not in found
    assert "randomised" not in found


def test_quantised_scores_with_a_made_up_gradient(redness, data):
    """A gradient that is there but leads nowhere: only the black box gets through."""

    class Shattered(redness):
        def patch_scores(self, x):
            scores = super().patch_scores(x)
            wrong = super().patch_scores(x.flip(1))  # the gradient of blue, not of red
            return scores.detach() + wrong - wrong.detach()

    found = flags(Shattered(), data)
    assert {"black_box_stronger", "large_eps_not_chance"} <= found
    assert "zero_gradient" not in found


def test_randomised_scores(redness, data):
    class Noisy(redness):
        def patch_scores(self, x):
            scores = super().patch_scores(x)
            return scores + 0.05 * torch.randn_like(scores)

    assert "randomised" in flags(Noisy(), data)


def test_scores_that_are_random_only_where_a_gradient_is_asked_for(redness, data):
    class Sly(redness):
        def patch_scores(self, x):
            scores = super().patch_scores(x)
            return scores + 0.1 if torch.is_grad_enabled() else scores

    assert "randomised" in flags(Sly(), data)


def test_saturated_scores(redness, data):
    class Saturated(redness):
        def patch_scores(self, x):
            return torch.sigmoid(2000 * (super().patch_scores(x) - 0.25))

    assert "zero_gradient" in flags(Saturated(), data)


def test_detached_scores(redness, data):
    class Detached(redness):
        def patch_scores(self, x):
            return super().patch_scores(x).detach()

    found = selfcheck(Detached(), data, steps=6, queries=60, images=5)
    named = {check.name: check for check in found}
    assert named["zero_gradient"].fired
    assert "detached" in named["zero_gradient"].sentence
    assert named["single_step_stronger"].fired is None


def test_a_detached_part_lets_a_black_box_through(redness, data):
    class Half(redness):
        """The score of most of what counts is cut from the graph."""

        def patch_scores(self, x):
            scores = super().patch_scores(x)
            return scores.detach() + 0.02 * x[:, 2].mean(dim=(1, 2))[:, None]

    assert "black_box_stronger" in flags(Half(), data)


def test_training_mode(redness, data):
    class Dropped(redness):
        def __init__(self):
            super().__init__()
            self.drop = torch.nn.Dropout(0.5)
            self.eval()

        def patch_scores(self, x):
            return self.drop(super().patch_scores(x))

    healthy = Dropped()
    assert flags(healthy, data) == set()
    partly = Dropped()
    partly.drop.train()
    assert {"train_mode", "randomised"} <= flags(partly, data)
    wholly = Dropped().train()
    found = {check.name: check for check in selfcheck(wholly, data)}
    assert found["train_mode"].fired
    assert found["steps_matter"].sentence == "Not asked: the detector is in training mode."


def test_evaluations_ask_what_they_can(redness, data):
    found = evaluate(redness(), data, attacks=("fgsm", "pgd10"))
    named = {check.name: check.fired for check in found.checks}
    assert named["train_mode"] is named["randomised"] is named["zero_gradient"] is False
    assert named["single_step_stronger"] is False
    assert named["black_box_stronger"] is None
    assert found.fired == []


def test_bad_options(redness, data):
    with pytest.raises(InputError, match=r"eps: expected a radius in \(0, 0.25\), got 0.5"):
        selfcheck(redness(), data, eps=0.5)
    for name in ("steps", "queries", "images"):
        with pytest.raises(InputError, match=f"{name}: expected >= 1, got 0"):
            selfcheck(redness(), data, **{name: 0})
    with pytest.raises(InputError, match="samples: expected both normal and anomalous"):
        selfcheck(redness(), data[:5])
