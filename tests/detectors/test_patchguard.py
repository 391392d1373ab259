import copy
import json

import numpy as np
import pytest
import scipy.ndimage
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import robustad
from robustad.calibration import Platt
from robustad.detectors import PatchGuard
from robustad.detectors.base import gaussian_blur
from robustad.detectors.state import HEADER
from robustad.errors import InputError, StateError, WeightsError
from robustad.networks import Attention, NetworkConfig, PatchNetwork, create
from robustad.verdict import Policy

TINY = {"image_size": 56, "depth": 2, "embed_dim": 32, "num_heads": 2, "discriminator_hidden": 48}
BODIES = {
    "vit": NetworkConfig(**TINY, layer_scale=1.0),
    "registers": NetworkConfig(**TINY, body="vit_small_patch14_reg4_dinov2", layer_scale=None),
    "no discriminator": NetworkConfig(**TINY, discriminator=False),
    "bigbird": NetworkConfig(**TINY, attention="bigbird", bigbird={"block_size": 2}),
    "resnet": NetworkConfig(body="resnet18", image_size=56),
    "unet": NetworkConfig(body="unet", image_size=56, unet_width=4, unet_depth=2),
}


def guard(config=BODIES["vit"], seed=0, **options):
    torch.manual_seed(seed)
    return PatchGuard(config, **options)


@pytest.fixture
def x():
    return torch.rand(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "guard.safetensors"
    guard().save(path)
    return path


def rewrite(path, *, config=None, tensors=None):
    """Save `path` again with something changed in its configuration or tensors."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    header["config"] |= config or {}
    state = load_file(path)
    state |= tensors or {}
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_file(state, path, metadata={HEADER: json.dumps(header)})


@pytest.mark.parametrize("kind", BODIES)
def test_saved_and_loaded_scores_are_the_same_bits(kind, x, tmp_path):
    detector = guard(BODIES[kind], top_k=3, map_sigma=2.0, map_radius=None)
    # As after training: batch norm's statistics are state, too.
    detector.network.train()
    detector.network(x)
    detector.eval()
    detector.calibrator = Platt().fit([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1])
    detector.policy = Policy(threshold=0.3, entropy_threshold=0.5)
    detector.save(tmp_path / "guard.safetensors")
    twin = robustad.load(tmp_path / "guard.safetensors")
    assert isinstance(twin, PatchGuard)
    assert twin.config() == detector.config()
    assert (twin.policy, twin.training) == (detector.policy, False)
    assert torch.equal(twin.patch_scores(x), detector.patch_scores(x))
    one, two = detector.predict(list(x)), twin.predict(list(x))
    assert np.array_equal(one.score, two.score)
    assert np.array_equal(one.probability, two.probability)
    assert np.array_equal(one.anomaly_map[2], two.anomaly_map[2])


def test_scores_are_the_networks_logits(x):
    detector = guard(top_k=2)
    logits = detector.network(x)[0]
    scores = detector.patch_scores(x)
    assert torch.equal(scores, logits)
    torch.testing.assert_close(detector(x), logits.sort(dim=1).values[:, -2:].mean(1))
    assert detector.patch_grid(56, 56) == (4, 4)
    assert scores.abs().max() > 0.01  # logits, not probabilities
    assert (scores < 0).any() or (scores > 1).any()


def test_scores_are_float32_under_autocast(x):
    with torch.autocast("cpu", torch.bfloat16):
        scores = guard().patch_scores(x)
    assert scores.dtype == torch.float32
    assert guard().bfloat16().patch_scores(x.bfloat16()).dtype == torch.float32


def test_defaults_are_the_papers():
    with torch.device("meta"):
        detector = PatchGuard()
    assert (detector.top_k, detector.top_fraction) == (5, 5)
    assert (detector.map_sigma, detector.map_radius) == (6.0, 7)
    assert detector.geometry == robustad.detectors.base.Geometry(size=224, multiple=14, square=True)
    assert detector.patch_grid(224, 224) == (16, 16)
    assert detector.network.config.body == "vit_small_patch14_dinov2"


def test_unet_scores_the_share_that_k_patches_would_be(x):
    detector = guard(BODIES["unet"], top_k=2)
    assert detector.top_fraction == 2 / 16
    scores = detector.patch_scores(x)
    assert scores.shape == (3, 56 * 56)
    count = 56 * 56 * 2 // 16
    torch.testing.assert_close(detector(x), scores.sort(1).values[:, -count:].mean(1))
    coarse = NetworkConfig(body="unet", image_size=56, patch_size=28, unet_depth=1, unet_width=2)
    assert guard(coarse, top_k=1).top_fraction == 1 / 4


def test_map_is_scipys_gaussian_cut_at_the_radius(x):
    detector = guard()
    scores = detector.patch_scores(x).detach()
    found = detector.anomaly_map(scores, (56, 56)).numpy()
    coarse = scores.reshape(3, 1, 4, 4)
    raw = torch.nn.functional.interpolate(coarse, (56, 56), mode="bilinear").squeeze(1).numpy()
    for one, plain in zip(found, raw, strict=True):
        expected = scipy.ndimage.gaussian_filter(plain, 6.0, radius=7, mode="nearest")
        np.testing.assert_allclose(one, expected, atol=1e-5)


def test_blur_without_radius_is_cut_at_four_sigma():
    maps = torch.rand(1, 1, 40, 40)
    assert torch.equal(gaussian_blur(maps, 1.5), gaussian_blur(maps, 1.5, 6))
    assert not torch.equal(gaussian_blur(maps, 1.5), gaussian_blur(maps, 1.5, 3))


@pytest.mark.parametrize("kind", ["vit", "unet"])
def test_an_untrained_detector_can_be_attacked(kind, x):
    detector = guard(BODIES[kind])
    before = {name: p.clone() for name, p in detector.named_parameters()}
    result = robustad.attack(
        detector, x, label=torch.tensor([0, 1, 0]), attack="pgd10", eps=8 / 255
    )
    gain = result.score - result.clean_score
    assert (gain * torch.tensor([1, -1, 1]) > 0).all()
    assert all(p.grad is None for p in detector.parameters())
    assert all(torch.equal(before[name], p) for name, p in detector.named_parameters())


def test_images_of_any_shape_become_squares():
    rng = np.random.default_rng(0)
    images = [rng.random((40, 90, 3)), rng.random((100, 60, 3))]
    detector = guard()
    prediction = detector.predict(images)
    assert [grid.shape for grid in prediction.patch_scores] == [(4, 4), (4, 4)]
    assert [one.shape for one in prediction.anomaly_map] == [(40, 90), (100, 60)]
    assert detector.prepare(images).shape == (2, 3, 56, 56)


def test_a_built_network_is_shared_and_put_in_evaluation_mode(x):
    network = create(BODIES["vit"])
    assert network.training
    detector = PatchGuard(network)
    assert detector.network is network
    assert not network.training
    twin = copy.deepcopy(detector)
    with torch.no_grad():
        network.head.output.bias.add_(1.0)
    torch.testing.assert_close(detector(x), twin(x) + 1.0)


class Mean(PatchNetwork):
    """A network that was not built from a configuration."""

    patch_size, image_size, attention_layers = 28, 56, ()

    def forward(self, x, attention=()) -> tuple[torch.Tensor, list[Attention]]:
        self.check(x, attention)
        return torch.nn.functional.avg_pool2d(x.mean(1), 28).flatten(1), []


def test_any_network_can_be_used_but_not_saved(x, tmp_path):
    detector = PatchGuard(Mean(), top_k=4)
    torch.testing.assert_close(detector(x), x.mean((1, 2, 3)))
    with pytest.raises(InputError, match=r"robustad.networks.create to save, got Mean, which has"):
        detector.save(tmp_path / "mean.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, r"top_k: expected 1\.\.16 patches, got 0"),
        ({"top_k": 17}, r"top_k: expected 1\.\.16 patches, got 17"),
        ({"top_k": 0.5}, r"top_k: .* got 0.5"),
        ({"top_k": True}, r"top_k: .* got True"),
        ({"map_sigma": -1.0}, "map_sigma: expected >= 0 pixels, got -1"),
        ({"map_sigma": float("nan")}, "map_sigma: expected >= 0 pixels, got nan"),
        ({"map_radius": 0}, "map_radius: expected >= 1 pixel or None, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        guard(**options)


def test_bad_networks_and_inputs(x):
    with pytest.raises(InputError, match="weights: expected None with a network that is built"):
        PatchGuard(create(BODIES["vit"]), "random")
    with pytest.raises(WeightsError, match="timm has no such model"):
        PatchGuard("vit_enormous")
    with pytest.raises(InputError, match=r"\(B, 3, 56, 56\), got \(3, 3, 56, 42\)"):
        guard().patch_scores(x[..., :42])
    with pytest.raises(InputError, match="expected 56 x 56 pixels, got 70 x 56"):
        guard().patch_grid(70, 56)


BIAS = "network.head.output.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors": {BIAS: None}}, f"{BIAS}: this tensor is missing"),
        ({"tensors": {"network.more": torch.zeros(1)}}, "network.more: .* none of vit_small"),
        ({"tensors": {BIAS: torch.zeros(2)}}, rf"{BIAS}: expected torch.float32 \(1,\) for .*\(2,"),
        ({"tensors": {BIAS: torch.zeros(1).half()}}, rf"{BIAS}: .* got torch.float16 \(1,\)"),
        ({"tensors": {BIAS: torch.tensor([float("nan")])}}, f"{BIAS}: expected finite weights"),
        ({"config": {"top_k": 0}}, "top_k: Input should be greater than or equal to 1"),
        ({"config": {"top_k": 17}}, r"top_k: expected 1\.\.16"),
        ({"config": {"network": {"body": "vit_enormous"}}}, "timm has no such model"),
        ({"config": {"network": {"depth": -1}}}, "network.depth: Input should be greater"),
        ({"config": {"network": {**TINY, "depth": 3}}}, "blocks.2.* is missing"),
        ({"config": {"fast": True}}, "fast: Extra inputs are not permitted"),
    ],
)
def test_damaged_files_are_refused(saved, change, message):
    rewrite(saved, **change)
    with pytest.raises(StateError, match=message):
        robustad.load(saved)


def test_truncated_file_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(StateError, match="not a readable safetensors file"):
        robustad.load(saved)


def test_loading_draws_no_random_numbers(saved):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    robustad.load(saved)
    assert torch.equal(torch.rand(3), expected)


def test_saving_an_earlier_state_keeps_it(x):
    """What `saved_tensors` gave does not follow the network's further training."""
    detector = guard()
    kept = detector.saved_tensors()
    before = detector(x)
    with torch.no_grad():
        detector.network.head.output.bias.add_(1.0)
    twin = PatchGuard.from_config(detector.config().model_dump(mode="json"), kept)
    assert torch.equal(twin(x), before)
