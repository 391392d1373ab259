import numpy as np
import pytest

import robustad.calibration.bootstrap as module
from robustad.calibration import Isotonic, Platt, Temperature, with_bootstrap_band
from robustad.errors import InputError


def sample(seed=0, size=100):
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % 2
    return rng.normal(1.5 * labels, 1.0), labels


def test_the_band_equals_refits_by_hand():
    scores, labels = sample(0, 30)
    found = with_bootstrap_band(Platt().fit(scores, labels), scores, labels, draws=40, level=0.8)
    band = found.band
    assert (band.level, band.draws) == (0.8, 40)
    bits = np.random.PCG64(0)
    refits = []
    for _ in range(40):
        drawn = []
        for label in (0, 1):
            group = np.flatnonzero(labels == label)
            drawn.append(group[(bits.random_raw(group.size) % group.size).astype(int)])
        rows = np.concatenate(drawn)
        refits.append(Platt().fit(scores[rows], labels[rows]).predict_proba(band.scores))
    low = np.quantile(refits, 0.1, axis=0, method="lower")
    high = np.quantile(refits, 0.9, axis=0, method="higher")
    np.testing.assert_allclose(band.low, low, rtol=0, atol=1e-9)
    np.testing.assert_allclose(band.high, high, rtol=0, atol=1e-9)


def test_the_band_covers_the_true_curve_about_as_often_as_it_says():
    at = np.array([-0.5, 0.75, 2.0])
    odds = np.exp(1.5 * at - 1.125)
    truth = odds / (1 + odds)
    inside = []
    for seed in range(25):
        scores, labels = sample(seed, 200)
        found = with_bootstrap_band(Platt().fit(scores, labels), scores, labels, draws=40)
        low, high = found.predict_interval(at)
        inside.append((low <= truth) & (truth <= high))
    # 75 correlated draws of a nominal 95%.
    assert 0.85 <= np.mean(inside) <= 1.0


def test_more_images_make_it_narrower_and_it_holds_the_curve():
    widths = []
    for size in (20, 200, 2000):
        scores, labels = sample(1, size)
        found = with_bootstrap_band(Platt().fit(scores, labels), scores, labels, draws=60)
        at = np.linspace(-30, 30, 301)
        low, high = found.predict_interval(at)
        p = found.predict_proba(at)
        assert (low <= p).all()
        assert (p <= high).all()
        low, high = found.predict_interval([0.75])
        widths.append((high - low)[0])
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_the_same_seed_gives_the_same_band():
    scores, labels = sample()
    platt = Platt().fit(scores, labels)
    first, again, other = (
        with_bootstrap_band(platt, scores, labels, draws=20, seed=seed).band for seed in (0, 0, 1)
    )
    assert first == again != other
    assert platt.band is None


def test_the_prior_moves_the_band_as_it_moves_refits():
    scores, labels = sample()
    platt = Platt().fit(scores, labels)
    after = with_bootstrap_band(platt, scores, labels, draws=30).with_prior(0.01)
    before = with_bootstrap_band(platt.with_prior(0.01), scores, labels, draws=30)
    np.testing.assert_allclose(after.band.low, before.band.low, rtol=1e-6)
    np.testing.assert_allclose(after.band.high, before.band.high, rtol=1e-6)


def test_weights_are_drawn_along():
    scores, labels = sample(0, 40)
    weight = np.where(np.arange(40) < 20, 2.0, 1.0)
    found = with_bootstrap_band(Platt().fit(scores, labels, weight), scores, labels, weight)
    low, high = found.predict_interval(scores)
    assert (low < high).all()


@pytest.mark.filterwarnings("ignore:Isotonic")
def test_isotonic_has_a_band_too():
    scores, labels = sample(0, 300)
    found = with_bootstrap_band(Isotonic().fit(scores, labels), scores, labels, draws=30)
    low, high = found.predict_interval([0.75])
    assert low[0] < found.predict_proba([0.75])[0] < high[0]


def test_too_few_images_and_bad_options():
    platt = Platt().fit([0.0, 1.0, 2.0], [0, 1, 1])
    with pytest.raises(InputError, match=r"at least 2 images of each label .* got 1 normal and"):
        with_bootstrap_band(platt, [0.0, 1.0, 2.0], [0, 1, 1])
    scores, labels = sample()
    for draws in (19, 2.5, True):
        with pytest.raises(InputError, match="draws: expected a whole number >= 20, got"):
            with_bootstrap_band(platt, scores, labels, draws=draws)
    with pytest.raises(InputError, match=r"level: expected a number in \(0, 1\), got 1"):
        with_bootstrap_band(platt, scores, labels, level=1)


def test_sets_that_cannot_be_fitted_are_left_out_unless_they_are_most(monkeypatch):
    # An outlier makes this temperature finite; of the draws without it none has a finite one.
    scores = np.array([-1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 20.0])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scaling = Temperature().fit(scores, labels)
    assert 100 < with_bootstrap_band(scaling, scores, labels).band.draws < 180
    monkeypatch.setattr(module, "_refitted", lambda *_: None)
    with pytest.raises(
        InputError, match="200 of 200 resampled calibration sets cannot be fitted by t"
    ):
        with_bootstrap_band(scaling, scores, labels)
