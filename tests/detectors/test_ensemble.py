import copy

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import robustad
from robustad.attacks import attack
from robustad.calibration import Platt
from robustad.detectors import AnomalyDINO, BankEnsemble
from robustad.errors import InputError, NotFittedError, StateError
from robustad.evaluation.target import load_target


def pictures(count, seed, defect=False, size=(64, 64)):
    rng = np.random.default_rng(seed)
    made = rng.integers(100, 130, (count, *size, 3)).astype(np.uint8)
    if defect:
        made[:, 16:32, 16:32] = 230
    return made


def cnn(layer, **options):
    torch.manual_seed(0)
    from robustad.backbones import create

    backbone = create("resnet18", "random", layers=(layer,))
    return AnomalyDINO(backbone, image_size=64, **options)


@pytest.fixture(scope="module")
def bootstrapped():
    made = BankEnsemble([AnomalyDINO("filters", image_size=64, k=2)], banks=4)
    return made.fit(pictures(2, seed=0))


@pytest.fixture(scope="module")
def layers():
    """Two layers of one network, on grids of 8 and 4 patches a side."""
    return BankEnsemble([cnn(3), cnn(2)], top_fraction=3).fit(pictures(2, seed=0))


def test_members_are_detectors_with_samples_of_the_bank(bootstrapped):
    x = bootstrapped.prepare(pictures(2, seed=1))
    patch = bootstrapped.member_patch_scores(x)
    assert patch.shape == (4, 2, 64)
    [view] = bootstrapped.views
    for place, bank in enumerate(bootstrapped.member_banks(0)):
        share = bank.shape[0] / view.bank.shape[0]
        assert 0.5 < share < 0.75  # 1 - 1/e
        alone = copy.deepcopy(view)
        alone.bank = bank
        assert torch.allclose(alone.patch_scores(x), patch[place], atol=1e-6)
    assert torch.allclose(bootstrapped.patch_scores(x), patch.mean(dim=0), atol=1e-6)
    banks = bootstrapped.member_banks(0)
    assert not torch.equal(banks[0], banks[1])


def test_spread_is_the_deviation_of_the_members_scores(bootstrapped):
    given = [*pictures(1, seed=1), *pictures(1, seed=2, defect=True)]
    x = bootstrapped.prepare(given)
    scores = bootstrapped.member_scores(x)
    assert scores.shape == (4, 2)
    expected = scores.numpy().std(axis=0, ddof=1)
    np.testing.assert_allclose(bootstrapped.spread(x), expected, rtol=1e-4)
    np.testing.assert_allclose(
        bootstrapped.predict_spread(given, batch_size=1), expected, rtol=1e-4
    )
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(bootstrapped.spread(leaf).sum(), leaf)
    assert float(gradient.abs().max()) > 0


def test_where_members_disagree_a_part_is_deferred(bootstrapped):
    twin = copy.deepcopy(bootstrapped)
    x = twin.prepare([*pictures(1, seed=1), *pictures(1, seed=2, defect=True)])
    ends, scores = twin.member_interval(x), twin.member_scores(x).numpy()
    assert (ends[:, 0] <= scores.min(axis=0)).all()
    np.testing.assert_allclose(ends[:, 1], scores.max(axis=0), rtol=1e-6)
    own = twin(x).detach().numpy()
    assert ((ends[:, 0] <= own) & (own <= ends[:, 1])).all()
    between = float(scores[:, 0].mean())  # a threshold that the members are of two minds about
    state = {"method": "platt", "slope": 50.0, "intercept": -50.0 * between, "n_normal": 1}
    twin.calibrator = Platt.from_dict({**state, "n_anomalous": 1, "prevalence": 0.5})
    assert str(twin.decide(own, interval=ends)[0]) == "defer"
    assert str(twin.decide(own)[0]) in ("accept", "reject")


def test_one_bank_of_one_view_is_the_view_itself():
    one = BankEnsemble([AnomalyDINO("filters", image_size=64)]).fit(pictures(1, seed=0))
    alone = AnomalyDINO("filters", image_size=64).fit(pictures(1, seed=0))
    x = alone.prepare(pictures(2, seed=1, defect=True))
    assert torch.allclose(one(x), alone(x), atol=1e-6)
    with pytest.raises(InputError, match="spread: needs several members"):
        one.spread(x)
    with pytest.raises(InputError, match="images: expected at least one image, got none"):
        one.predict_spread([])


def test_layers_meet_on_the_finest_grid_and_one_scale(layers):
    assert layers.geometry.multiple == 16
    x = layers.prepare(pictures(2, seed=1, defect=True))
    assert layers.patch_grid(64, 64) == (8, 8)
    patch = layers.member_patch_scores(x)
    assert patch.shape == (2, 2, 64)
    coarse, fine = layers.views
    factor = layers.scale.mean() / layers.scale
    assert torch.allclose(patch[1], fine.patch_scores(x) * factor[1], atol=1e-6)
    maps = coarse.patch_scores(x).reshape(2, 1, 4, 4)
    up = torch.nn.functional.interpolate(maps, (8, 8), mode="bilinear").flatten(1)
    assert torch.allclose(patch[0], up * factor[0], atol=1e-6)
    assert bool((layers.scale > 0).all())
    prediction = layers.predict(pictures(1, seed=3, size=(80, 100)))
    assert prediction.anomaly_map[0].shape == (80, 100)


def test_it_can_be_attacked(bootstrapped):
    x = bootstrapped.prepare([*pictures(1, seed=1), *pictures(1, seed=2, defect=True)])
    result = attack(bootstrapped, x, label=torch.tensor([0, 1]), attack="pgd10", eps=4 / 255)
    assert bool(((result.score - result.clean_score) * torch.tensor([1, -1]) > 0).all())


def test_saved_and_read_back(bootstrapped, layers, tmp_path):
    for made in (bootstrapped, layers):
        made.save(tmp_path / "x.safetensors")
        loaded = robustad.load(tmp_path / "x.safetensors")
        assert isinstance(loaded, BankEnsemble)
        assert loaded.config() == made.config()
        x = made.prepare(pictures(2, seed=1))
        assert torch.allclose(loaded.member_scores(x), made.member_scores(x), atol=1e-6)
    assert isinstance(load_target(tmp_path / "x.safetensors"), BankEnsemble)


def test_the_seed_decides_the_samples():
    made = [
        BankEnsemble([AnomalyDINO("filters", image_size=64)], banks=2, seed=seed).fit(
            pictures(1, seed=0)
        )
        for seed in (0, 0, 1)
    ]
    assert torch.equal(made[0].rows_0_1, made[1].rows_0_1)
    assert not torch.equal(made[0].rows_0_1[:20], made[2].rows_0_1[:20])


def test_another_bank_is_packed_anew(bootstrapped):
    twin = copy.deepcopy(bootstrapped)
    x = twin.prepare(pictures(1, seed=1))
    before = twin(x)
    twin.fit(pictures(2, seed=5))
    assert not torch.allclose(twin(x), before)
    assert torch.allclose(bootstrapped(x), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("rows_0_1"), "rows_0_1.* is missing"),
        (lambda t: t.update(rows_0_1=t["rows_0_1"] + 10_000), r"rows_0_1: expected rows 0\.\.127"),
        (lambda t: t.update(rows_0_1=t["rows_0_1"][:0]), "rows_0_1: expected rows"),
        (lambda t: t.update(rows_0_1=t["rows_0_1"].float()), "rows_0_1: expected rows"),
        (lambda t: t.update(scale=t["scale"] * 0), "scale: expected 1 positive numbers"),
        (lambda t: t.pop("view.0.bank"), "bank.* is missing"),
    ],
)
def test_damaged_files(bootstrapped, tmp_path, change, message):
    path = tmp_path / "x.safetensors"
    bootstrapped.save(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, path, metadata=header)
    with pytest.raises(StateError, match=message):
        robustad.load(path)


def test_bad_options():
    view = AnomalyDINO("filters", image_size=64)
    for views, options, message in (
        ([], {}, "views: expected at least one, got none"),
        ([view], {"banks": 0}, "banks: expected >= 1, got 0"),
        ([view, torch.nn.Identity()], {}, "expected AnomalyDINO, view 1 is a Identity"),
        ([view, AnomalyDINO("filters", image_size=32)], {}, "expected one image_size and square"),
    ):
        with pytest.raises(InputError, match=message):
            BankEnsemble(views, **options)
    with pytest.raises(NotFittedError, match="no memory banks yet"):
        BankEnsemble([view], banks=3).predict(pictures(1, seed=0))
    many = BankEnsemble([AnomalyDINO("filters", image_size=64, k=60)], banks=3)
    with pytest.raises(InputError, match="vectors of a sampled bank, got 60"):
        many.fit(pictures(1, seed=0))


def test_k_nearest_by_mean_and_by_the_farthest_of_them():
    images = pictures(2, seed=0)
    mean = AnomalyDINO("filters", image_size=64, k=3).fit(images)
    last = AnomalyDINO("filters", image_size=64, k=3, reduce="max").fit(images)
    x = mean.prepare(pictures(1, seed=1, defect=True))
    features = torch.nn.functional.normalize(mean.patch_features(x).double(), dim=2)
    nearest = (1 - features @ mean.bank.double().T).sort(dim=2).values[..., :3]
    assert torch.allclose(mean.patch_scores(x).double(), nearest.mean(dim=2), atol=1e-5)
    assert torch.allclose(last.patch_scores(x).double(), nearest[..., 2], atol=1e-5)
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(last(leaf).sum(), leaf)
    assert float(gradient.abs().max()) > 0
