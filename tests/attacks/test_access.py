import numpy as np
import pytest
import torch
from torch import nn

from robustad.attacks import attack
from robustad.attacks.access import CallableScorer, OnnxScorer, as_scorer, find_access
from robustad.calibration import Platt
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError, StateError
from robustad.export import export_onnx
from robustad.runtime import load
from robustad.verdict import Policy

EPS = 8 / 255


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    detector = AnomalyDINO("filters", image_size=32, square=True, top_fraction=2).fit(x[:2])
    score = detector.aggregate(detector.patch_scores(x)).numpy()
    detector.calibrator = Platt().fit(score + np.arange(6) % 2, np.arange(6) % 2)
    detector.policy = Policy(threshold=0.4)
    path = export_onnx(
        detector, tmp_path_factory.mktemp("exported") / "model.onnx", input="float_nchw"
    )
    return detector, path, x


def test_a_detector_is_taken_as_it_is(smooth, images):
    scorer = smooth()
    assert as_scorer(scorer) is scorer
    assert find_access(scorer, images(1)) == "white"


def test_a_file_scores_as_its_detector_but_has_no_gradient(exported):
    detector, path, x = exported
    for target in (path, str(path), load(path)):
        scorer = as_scorer(target)
        assert isinstance(scorer, OnnxScorer)
        patch = scorer.patch_scores(x)
        assert torch.allclose(patch, detector.patch_scores(x), atol=1e-4)
        assert torch.allclose(
            scorer.aggregate(patch), detector.aggregate(detector.patch_scores(x)), atol=1e-4
        )
        assert torch.equal(scorer.patch_scores(x), patch)
    assert scorer.patch_grid(32, 32) == detector.patch_grid(32, 32)
    assert find_access(scorer, x) == "score"
    with pytest.raises(InputError, match=r"no gradient .* black-box attacks \(square, spsa, "):
        attack(path, x[:1], label=torch.tensor([0]), attack="fgsm")


def test_a_file_gives_calibrator_and_policy(exported):
    detector, path, _ = exported
    model = load(path)
    scorer = as_scorer(model)
    assert scorer.policy == detector.policy
    assert scorer.calibrator.predict_proba([0.3]) == detector.calibrator.predict_proba([0.3])
    model.calibration = (2.0, -1.0)
    assert scorer.calibrator.score_at(0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["square60", "spsa600", "hopskipjump150"])
def test_black_box_attacks_run_on_a_file(exported, name):
    detector, path, x = exported
    label = torch.tensor([0, 1])
    found = attack(path, x[2:4], label=label, attack=name, eps=EPS, threshold=0.5)
    assert (found.distance <= EPS + 1e-6).all()
    assert int(found.forward.max()) <= {"square60": 60, "spsa600": 600, "hopskipjump150": 150}[name]
    assert found.backward.tolist() == [0, 0]
    again = detector.aggregate(detector.patch_scores(found.x_worst))
    assert torch.allclose(again, found.worst_score, atol=1e-4)
    if name != "hopskipjump150":
        gain = (1 - 2 * label) * (found.score - found.clean_score)
        assert (gain > 0).all()


def test_a_file_whose_score_is_another_mean_is_refused(exported):
    _, path, x = exported
    model = load(path)
    model.metadata["top_fraction"] = 1.0
    with pytest.raises(StateError, match=r"differ by .* from the mean of its largest patch scores"):
        as_scorer(model).patch_scores(x)


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x.mean(dim=(1, 2, 3)),
        lambda x: x.numpy().mean(axis=(1, 2, 3)),
        lambda x: x.mean(dim=(1, 2, 3)).tolist(),
        lambda x: x.numpy().astype(np.float64).mean(axis=(1, 2, 3)),
    ],
)
def test_callables_may_give_image_scores_as_tensors_arrays_or_lists(images, given):
    x = images(3)
    scorer = as_scorer(given)
    patch = scorer.patch_scores(x)
    assert patch.shape == (3, 1)
    assert torch.allclose(scorer.aggregate(patch).float(), x.mean(dim=(1, 2, 3)))
    differentiable = isinstance(given(x), torch.Tensor)
    assert find_access(scorer, x) == ("white" if differentiable else "score")
    if not differentiable:
        with pytest.raises(InputError, match="no gradient to the images"):
            attack(given, x, label=torch.tensor([0, 1, 0]), attack="pgd10", eps=EPS)
    found = attack(given, x, label=torch.tensor([0, 1, 0]), attack="square150", eps=EPS)
    assert found.forward.tolist() == [150] * 3
    assert ((found.score - found.clean_score) * torch.tensor([1, -1, 1]) > 0).all()


def test_callables_may_give_patch_scores_and_gradients(images):
    x = images(2)
    scorer = as_scorer(lambda images: images.flatten(2).mean(dim=1))
    assert scorer.patch_scores(x).shape == (2, 64)
    assert torch.equal(scorer.aggregate(scorer.patch_scores(x)), x.mean(dim=1).amax(dim=(1, 2)))
    assert find_access(scorer, x) == "white"
    found = attack(scorer, x, label=torch.tensor([0, 1]), attack="pgd10", eps=EPS)
    assert (found.backward == 10).all()


def test_errors_of_a_callable_are_passed_on(images):
    def broken(x):
        raise RuntimeError("camera is off")

    with pytest.raises(RuntimeError, match="camera is off"):
        find_access(as_scorer(broken), images(1))


def test_booleans_are_decisions(images):
    scorer = as_scorer(lambda images: images.mean(dim=(1, 2, 3)) > 0.5)
    assert find_access(scorer, images(2)) == "decision"
    assert set(scorer.patch_scores(images(4)).flatten().tolist()) <= {0.0, 1.0}


def test_modules_that_train_are_refused_and_their_parameters_left_alone(images):
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    x, label = images(2), torch.tensor([0, 1])
    with pytest.raises(InputError, match="detector: is in training mode"):
        attack(module, x, label=label)
    module.eval()
    assert len(as_scorer(module).parameters()) == 2
    assert as_scorer(lambda x: x).parameters() == []
    attack(module, x, label=label)
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: x, r"expected patch scores \(2, N\) or image scores \(2,\), got \(2, 3, 8, 8\)"),
        (lambda x: x.mean(), r"got \(\)"),
        (lambda x: torch.zeros(3), r"got \(3,\)"),
        (lambda x: torch.zeros(2, 0), r"got \(2, 0\)"),
        (lambda x: torch.full((2,), torch.nan), "callable: expected scores, got NaN"),
        (lambda x: "many", "callable: expected scores that make an array, got str"),
        (lambda x: {"score": 1}, "callable: expected scores that make an array, got dict"),
    ],
)
def test_what_is_no_score_is_refused(images, function, match):
    with pytest.raises(InputError, match=match):
        CallableScorer(function).patch_scores(images(2))


def test_other_targets_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"target: expected a detector .* got int"):
        as_scorer(3)
    with pytest.raises(InputError, match=r"path of an .onnx file, .*robustad.load"):
        as_scorer(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="no such ONNX file"):
        as_scorer(tmp_path / "model.onnx")
