import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.calibration import Platt, cross_probabilities, repeated_splits, stratified_folds
from robustad.errors import InputError


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 60), st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 99))
def test_splits_are_stratified_and_complete(normal, anomalous, fraction, seed):
    labels = np.repeat([0, 1], [normal, anomalous])
    for fitted, measured in repeated_splits(labels, fraction=fraction, repeats=3, seed=seed):
        assert sorted([*fitted, *measured]) == list(range(labels.size))
        for label, size in ((0, normal), (1, anomalous)):
            expected = min(max(round(fraction * size), 1), size - 1)
            assert (labels[fitted] == label).sum() == expected


def test_splits_differ_and_repeat_with_the_seed():
    labels = np.arange(40) % 2
    first = [tuple(fitted) for fitted, _ in repeated_splits(labels, repeats=20)]
    assert len(set(first)) == 20
    assert first == [tuple(fitted) for fitted, _ in repeated_splits(labels, repeats=20)]
    assert first != [tuple(fitted) for fitted, _ in repeated_splits(labels, repeats=20, seed=1)]


def test_each_image_is_fitted_on_about_equally_often():
    labels = np.repeat([0, 1], [20, 30])
    times = np.zeros(50)
    for fitted, _ in repeated_splits(labels, fraction=0.2, repeats=2000):
        times[fitted] += 1
    np.testing.assert_allclose(times / 2000, 0.2, atol=0.04)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 12), st.integers(0, 99))
def test_folds_leave_each_image_out_once(normal, anomalous, folds, seed):
    labels = np.repeat([0, 1], [normal, anomalous])
    made = stratified_folds(labels, folds=folds, seed=seed)
    assert len(made) == min(folds, normal, anomalous)
    assert sorted(np.concatenate([left_out for _, left_out in made])) == list(range(labels.size))
    for fitted, left_out in made:
        assert not set(fitted) & set(left_out)
        assert len(fitted) + len(left_out) == labels.size
        for label, size in ((0, normal), (1, anomalous)):
            share = size / len(made)
            assert np.floor(share) <= (labels[left_out] == label).sum() <= np.ceil(share)
            assert (labels[fitted] == label).any()


def test_no_image_has_a_say_in_its_own_probability():
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 2
    scores = rng.normal(labels, 1.0)
    p = cross_probabilities(Platt(), scores, labels)
    for fitted, left_out in stratified_folds(labels):
        expected = Platt().fit(scores[fitted], labels[fitted]).predict_proba(scores[left_out])
        np.testing.assert_array_equal(p[left_out], expected)
    weight = np.where(np.arange(30) < 15, 1.0, 3.0)
    weighted = cross_probabilities(Platt(), scores, labels, weight)
    assert not np.allclose(weighted, p)


def test_bad_options():
    with pytest.raises(InputError, match=r"at least 2 images of each label .* got 1 of label"):
        list(repeated_splits([0, 0, 1]))
    with pytest.raises(InputError, match="at least 2 images of each label"):
        stratified_folds([0, 1, 1])
    with pytest.raises(InputError, match=r"fraction: expected a number in \(0, 1\), got 1"):
        list(repeated_splits([0, 0, 1, 1], fraction=1))
    with pytest.raises(InputError, match="repeats: expected a whole number >= 1, got 0"):
        list(repeated_splits([0, 0, 1, 1], repeats=0))
    with pytest.raises(InputError, match="folds: expected a whole number >= 2, got 1"):
        stratified_folds([0, 0, 1, 1], folds=1)
