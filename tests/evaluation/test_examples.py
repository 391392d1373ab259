import numpy as np
import pytest

from robustad.errors import InputError
from robustad.evaluation import collect_examples, evaluate


def test_examples_are_the_ends_of_the_ranking(redness, samples):
    detector, data = redness(), samples(0, 12)
    found = evaluate(detector, data, attacks=("pgd10",))
    examples = collect_examples(detector, data[::-1], found, count=2)
    order = np.argsort(-found.scores(), kind="stable")
    assert [e.name for e in examples] == [found.names[i] for i in [*order[:2], *order[-2:]]]
    for example, index in zip(examples, [*order[:2], *order[-2:]], strict=True):
        assert example.clean_score == pytest.approx(found.scores()[index], abs=1e-6)
        assert example.attacked_score == pytest.approx(found.scores("pgd10")[index], abs=1e-6)
        assert example.label == found.labels[index]
        assert np.allclose(example.image, data[index].image / 255.0, atol=1e-6)
        assert np.abs(example.attacked - example.image).max() <= 8 / 255 + 1e-6
        assert np.array_equal(example.mask, data[index].read_mask())
        assert example.clean_map.shape == example.attacked_map.shape == (16, 16)
        assert not np.array_equal(example.clean_map, example.attacked_map)
        assert (example.attack, example.defect) == ("pgd10", data[index].defect)


def test_few_images_give_each_example_once(redness, samples):
    data = samples(0, 4)
    found = evaluate(redness(), data, attacks=())
    examples = collect_examples(redness(), data, found, count=3, attack_name="fgsm")
    assert sorted(e.name for e in examples) == sorted(s.name for s in data)
    with pytest.raises(InputError, match="count: expected >= 1, got 0"):
        collect_examples(redness(), data, found, count=0)
    with pytest.raises(InputError, match="probe: attack 'fgsm_probe' needs a fitted probe"):
        collect_examples(redness(), data, found, attack_name="fgsm_probe")
