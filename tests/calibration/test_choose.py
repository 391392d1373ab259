import numpy as np
import pytest

from robustad.calibration import Beta, Isotonic, Platt, Temperature, choose
from robustad.detectors import AnomalyDINO, PatchGuard
from robustad.errors import InputError
from robustad.metrics import nll


def gaussian(seed=0, size=400):
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % 2
    return rng.normal(2.0 * labels - 1.0, 1.0), labels


def test_platt_where_nothing_is_better():
    found = choose(*gaussian())
    assert type(found.calibrator) is Platt
    assert set(found.nll) == {"platt", "temperature"}
    with pytest.raises(Exception, match="has to come first"):
        found.calibrator.to_dict()


def test_isotonic_where_there_are_images_enough_and_no_sigmoid():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.0, 1.0, 4000)
    labels = rng.random(4000) < np.where(scores < 0.5, 0.1, np.where(scores < 0.9, 0.5, 0.99))
    found = choose(scores, labels)
    assert type(found.calibrator) is Isotonic
    assert set(found.nll) == {"platt", "beta", "isotonic"}
    assert found.nll["isotonic"] == min(found.nll.values())
    few = choose(scores[:900], labels[:900])
    assert "isotonic" not in few.nll


def test_beta_where_scores_follow_beta_distributions():
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 2
    # Both classes pile up at the ends: no logistic curve in the score fits.
    scores = np.where(labels, rng.beta(2.0, 0.3, 600), rng.beta(0.3, 2.0, 600)).clip(1e-5, 1 - 1e-5)
    assert type(choose(scores, labels).calibrator) is Beta
    wide = choose(2.0 * scores, labels, detector=AnomalyDINO("filters")).calibrator
    assert (type(wide), wide.score_range) == (Beta, (0.0, 2.0))
    assert set(choose(2.0 * scores, labels).nll) == {"platt"}


def test_a_detector_of_logits():
    detector = PatchGuard.__new__(PatchGuard)
    found = choose(*gaussian(), detector=detector)
    assert set(found.nll) == {"platt", "temperature", "beta"}


def test_the_loss_is_that_of_images_left_out():
    # On three images a method fitted to all of them would look perfect.
    scores, labels = gaussian(3, 30)
    found = choose(scores, labels)
    assert found.nll["platt"] > nll(Platt().fit(scores, labels).predict_proba(scores), labels)


def test_a_method_that_cannot_be_fitted_is_left_out():
    # Temperature has no finite fit here, Platt has.
    labels = np.repeat([0, 1], [60, 20])
    scores = np.concatenate([np.linspace(-0.1, 2.0, 60), np.linspace(2.0, 3.0, 20)])
    with pytest.raises(InputError, match="no finite temperature"):
        Temperature().fit(scores, labels)
    assert set(choose(scores, labels).nll) == {"platt"}


def test_weights_and_refusals():
    scores, labels = gaussian()
    weight = np.where(scores > 0, 1.0, 0.5)
    assert choose(scores, labels, weight).nll != choose(scores, labels).nll
    with pytest.raises(InputError, match="at least 2 images of each label"):
        choose([0.0, 1.0, 2.0], [0, 1, 1])
    with pytest.raises(InputError, match="labels: expected both"):
        choose([0.0, 1.0], [1, 1])
