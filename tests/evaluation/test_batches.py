import numpy as np

from robustad.evaluation.batches import batches


def test_batches(redness, samples, sample):
    data = [*samples(0, 4), sample(9, 1, size=32), sample(10, 1, mask=False)]
    made = list(batches(redness(), data, 3))
    assert [b.index for b in made] == [[0, 1, 2], [3, 4, 5]]
    assert [b.label.tolist() for b in made] == [[0, 0, 1], [1, 1, 1]]
    assert made[1].pixels[2] is None
    assert made[1].mask[2].all()
    assert not made[0].mask[0].any()
    assert made[0].mask[2].reshape(4, 4).nonzero().tolist() == [[1, 1], [1, 2]]
    assert made[1].x.shape == (3, 3, 16, 16)
    assert np.allclose(made[0].x[0].permute(1, 2, 0), data[0].image / 255.0, atol=1e-6)
