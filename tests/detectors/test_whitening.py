import pytest
import torch
from sklearn.decomposition import PCA

from robustad.detectors.whitening import OFFSET, SHRINKAGE, Whitening


def correlated(rows=500, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator)
    return torch.randn(rows, dim, generator=generator) @ mixing + 3.0


def test_matches_shrunk_principal_components():
    features = correlated()
    whitening = Whitening.fit(features)
    pca = PCA().fit(features.double().numpy())
    floor = SHRINKAGE * pca.explained_variance_.mean()
    scale = 1 / (pca.explained_variance_ + floor) ** 0.5
    expected = (pca.components_.T * scale) @ pca.components_
    assert torch.allclose(whitening.matrix, torch.from_numpy(expected).float(), atol=1e-5)
    assert torch.allclose(whitening.centre, features.mean(dim=0), atol=1e-5)


def test_output_has_nearly_equal_variances_and_a_constant_last():
    features = correlated()
    white = Whitening.fit(features)(features)
    assert white.shape == (500, 7)
    covariance = torch.cov(white[:, :6].T)
    before = torch.linalg.eigvalsh(torch.cov(features.T))
    expected = before / (before + SHRINKAGE * before.mean())
    assert torch.allclose(torch.linalg.eigvalsh(covariance), expected, atol=1e-4)
    assert torch.allclose(white[:, :6].mean(dim=0), torch.zeros(6), atol=1e-5)
    assert torch.equal(white[:, 6], torch.full((500,), OFFSET * 6**0.5))


def test_acts_on_the_last_axis():
    features = correlated(rows=24)
    whitening = Whitening.fit(features)
    assert torch.allclose(whitening(features.reshape(2, 12, 6)).reshape(24, 7), whitening(features))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_or_equal_rows_stay_finite(rows):
    for features in (correlated(rows=rows), torch.ones(rows, 6)):
        whitening = Whitening.fit(features)
        assert torch.isfinite(whitening(features + 0.1)).all()
        assert whitening.matrix.dtype == features.dtype
