"""Promised error rates on embedded images: kept when clean, broken by an attack."""

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from robustad.attacks import attack
from robustad.conformal import p_values, threshold_for_fpr
from robustad.conformal.thresholds import allowed_errors
from robustad.data.surfaces import Surfaces
from robustad.detectors import AnomalyDINO

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
SPLITS, HELD_OUT = 500, 100


@pytest.fixture(scope="module")
def scores():
    """Of normal images, clean and of the first 30 under PGD-10; computed once."""
    images = Surfaces(size=64, train=4, test_good=160, per_defect=0).load("cloth")
    detector = AnomalyDINO("filters", image_size=64).fit([s.image for s in images.train])
    clean = detector.predict([s.image for s in images.test], batch_size=32).score
    x = detector.prepare([s.image for s in images.test[:30]])
    attacked = attack(detector, x, label=torch.zeros(30), attack="pgd10", eps=8 / 255).score
    return clean, attacked.numpy()


@pytest.fixture(scope="module")
def orders(scores):
    return [np.random.default_rng(seed).permutation(scores[0].size) for seed in range(SPLITS)]


def test_false_alarms_stay_below_every_promised_rate(scores, orders):
    clean, _ = scores
    found = np.array(
        [
            [
                (p_values(clean[order[HELD_OUT:]], clean[order[:HELD_OUT]]) <= alpha).mean()
                for alpha in ALPHAS
            ]
            for order in orders
        ]
    )
    error = found.std(axis=0, ddof=1) / np.sqrt(SPLITS)
    assert (found.mean(axis=0) <= np.array(ALPHAS) + 3 * error).all()
    # and not by never raising an alarm: scores hardly tie, so the expected rate is known
    expected = np.array([(allowed_errors(HELD_OUT, a) + 1) / (HELD_OUT + 1) for a in ALPHAS])
    assert (np.abs(found.mean(axis=0) - expected) <= 4 * error).all()


def test_the_confident_threshold_breaks_as_seldom_as_it_says(scores, orders):
    clean, _ = scores
    rest = clean.size - HELD_OUT
    for alpha in (0.1, 0.2):
        broken = []
        for order in orders:
            known, others = clean[order[:HELD_OUT]], clean[order[HELD_OUT:]]
            limit = threshold_for_fpr(known, alpha, confidence=0.9).value
            broken.append((others >= np.float32(limit)).mean() > alpha)
        k = allowed_errors(HELD_OUT, alpha, 0.9)
        # what chance makes of so few images left over; with infinitely many it is 0.1 at most
        exact = betabinom.sf(np.floor(alpha * rest), rest, k + 1, HELD_OUT - k)
        assert abs(np.mean(broken) - exact) <= 4 * np.sqrt(exact * (1 - exact) / SPLITS)
        assert exact < 0.2


def test_an_attack_breaks_every_promise(scores, orders):
    clean, attacked = scores
    order = orders[0][orders[0] >= 30]  # held-out images are others than the attacked ones
    p = p_values(attacked, clean[order[:HELD_OUT]])
    assert (p <= 0.01).mean() > 0.9
    untouched = p_values(clean[:30], clean[order[:HELD_OUT]])
    assert (untouched <= 0.2).mean() < 0.6
