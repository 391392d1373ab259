from itertools import product

from robustad.training.seeds import PSEUDO, START, seeds


def test_places_have_seeds_of_their_own():
    found = [
        seeds(seed, purpose, epoch, row, count=1)[0]
        for seed, purpose, epoch, row in product((0, 1), (PSEUDO, START), range(5), range(5))
    ]
    assert len(set(found)) == len(found)
    assert all(0 <= one < 2**62 for one in found)


def test_the_same_place_has_the_same_seeds():
    assert seeds(3, PSEUDO, 1, 2, count=4) == seeds(3, PSEUDO, 1, 2, count=4)
    assert len(set(seeds(3, PSEUDO, 1, 2, count=4))) == 4
