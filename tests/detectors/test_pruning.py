import numpy as np
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor

from robustad.detectors import AnomalyDINO
from robustad.detectors.pruning import inliers, outlyingness, spacing
from robustad.errors import InputError


def vectors(count=120, dim=6, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("neighbours", [1, 5, 16])
def test_density_is_scikit_learns_local_outlier_factor(neighbours):
    bank = vectors()
    theirs = LocalOutlierFactor(n_neighbors=neighbours, metric="cosine").fit(bank.numpy())
    ours = outlyingness(bank, by="density", neighbours=neighbours)
    np.testing.assert_allclose(ours, -theirs.negative_outlier_factor_, rtol=1e-4)


def test_distance_is_the_mean_to_the_nearest_others_also_among_duplicates():
    bank = torch.cat([vectors(30), vectors(30)[:10], vectors(1, seed=9)])
    unit = torch.nn.functional.normalize(bank.double(), dim=1)
    distance = 1 - unit @ unit.T
    distance.fill_diagonal_(torch.inf)
    expected = distance.sort(dim=1).values[:, :4].mean(dim=1)
    assert torch.allclose(outlyingness(bank, neighbours=4), expected, atol=1e-5)


@pytest.mark.parametrize("by", ["distance", "density"])
def test_what_slipped_in_is_dropped(by):
    generator = torch.Generator().manual_seed(0)
    normal = torch.tensor([1.0, 0, 0, 0]) + 0.05 * torch.randn(200, 4, generator=generator)
    strange = torch.tensor([0, 1.0, 0, 0]) + 0.3 * torch.randn(5, 4, generator=generator)
    bank = torch.cat([normal[:100], strange, normal[100:]])
    kept = inliers(bank, drop=10 / 205, by=by, neighbours=10)
    assert len(kept) == 195
    assert kept.tolist() == sorted(kept.tolist())
    assert not set(range(100, 105)) & set(kept.tolist())


def test_one_row_always_stays_and_nothing_may_be_dropped():
    bank = vectors(4)
    assert len(inliers(bank, drop=0.99)) == 1
    assert inliers(bank, drop=0.0).tolist() == [0, 1, 2, 3]
    assert inliers(torch.ones(4, 2), drop=0.5).tolist() == [0, 1]  # all alike: the first ones


def test_spacing():
    bank = torch.tensor([[1.0, 0], [1.0, 0.1], [0, 1.0]])
    unit = torch.nn.functional.normalize(bank, dim=1)
    near, far = 1 - float(unit[0] @ unit[1]), 1 - float(unit[1] @ unit[2])
    assert spacing(bank) == pytest.approx((2 * near + far) / 3, abs=1e-6)
    assert spacing(bank[:1]) == 1.0
    assert spacing(torch.ones(5, 2)) == 1e-6


def test_a_pruned_bank_scores_what_slipped_in(tmp_path):
    rng = np.random.default_rng(0)
    normal = rng.integers(100, 120, (3, 64, 64, 3)).astype(np.uint8)
    normal[0, 8:16, 8:16] = 255  # a defect among the normal images
    plain = AnomalyDINO("filters", image_size=64, whiten=False).fit(normal)
    pruned = AnomalyDINO("filters", image_size=64, whiten=False, prune=0.2).fit(normal)
    assert plain.bank.shape[0] == 3 * 64
    assert pruned.bank.shape[0] == round(0.8 * 3 * 64)
    x = plain.prepare(normal[:1])
    assert float(plain(x)) < 1e-5 < float(pruned(x))
    pruned.save(tmp_path / "x.safetensors")
    import robustad

    loaded = robustad.load(tmp_path / "x.safetensors")
    assert loaded.config().prune == 0.2
    assert torch.equal(loaded.bank, pruned.bank)
    dense = AnomalyDINO("filters", image_size=64, prune=0.2, prune_by="density", coreset=50)
    assert dense.fit(normal).bank.shape[0] == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": 1.0}, r"drop: expected a share in \[0, 1\), got 1\.0"),
        ({"drop": -0.1}, r"drop: expected a share in \[0, 1\), got -0\.1"),
        ({"drop": float("nan")}, "drop: expected a share"),
        ({"drop": 0.1, "by": "height"}, "by: expected 'distance' or 'density', got 'height'"),
        ({"drop": 0.1, "neighbours": 0}, "neighbours: expected >= 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        inliers(vectors(), **options)


def test_bad_banks_and_detector_options():
    with pytest.raises(InputError, match=r"at least two rows \(M, D\), got \(1, 6\)"):
        inliers(vectors(1), drop=0.5)
    with pytest.raises(InputError, match="finite"):
        inliers(vectors() / 0, drop=0.5)
    with pytest.raises(InputError, match=r"prune: .*less than 1"):
        AnomalyDINO("filters", prune=1.0)
    with pytest.raises(InputError, match=r"prune_by: .*'distance' or 'density'"):
        AnomalyDINO("filters", prune_by="height")
    with pytest.raises(InputError, match=r"reduce: .*'mean' or 'max'"):
        AnomalyDINO("filters", reduce="median")
