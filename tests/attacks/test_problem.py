import numpy as np
import pytest
import torch

from robustad.attacks import LogitScale, attack
from robustad.attacks.problem import Problem
from robustad.errors import InputError
from robustad.evaluation.worst import order_margin, pair_margin


def label(*values):
    return torch.tensor(values)


@pytest.fixture
def mean_red(scorer):
    """Two patches: mean red of the image's halves; the image score is their mean."""
    return scorer(lambda x: torch.stack([x[:, 0, :4], x[:, 0, 4:]], dim=1).mean(dim=(2, 3)))


def test_the_worst_inside_the_ball_is_kept_whatever_is_asked(mean_red):
    x = torch.full((3, 3, 8, 8), 0.5)
    problem = Problem.of(mean_red, x, label=label(0, 1, 0), eps=0.1)
    assert torch.equal(problem.worst(), x)
    problem.scores(x + 0.02)
    problem.scores(x - 0.05)
    problem.scores(x + 0.3)  # outside
    assert torch.allclose(
        problem.worst() - x, torch.tensor([0.02, -0.05, 0.02])[:, None, None, None]
    )
    assert torch.allclose(problem.meter.harm, torch.tensor([0.52, -0.45, 0.52]))
    assert problem.meter.forward.tolist() == [3, 3, 3]
    assert problem.meter.backward.tolist() == [0, 0, 0]
    problem.gradient(x)
    assert problem.meter.forward.tolist() == [4, 4, 4]
    assert problem.meter.backward.tolist() == [1, 1, 1]
    assert problem.meter.pixel is None


def test_a_part_of_the_batch_shares_the_meter(mean_red):
    x = torch.full((4, 3, 8, 8), 0.5)
    problem = Problem.of(mean_red, x, label=label(0, 1, 0, 1), eps=0.1, seeds=[5, 6, 7, 8])
    part = problem.select([3, 1])
    assert part.seeds == (8, 6)
    part.scores(part.x - 0.1)
    again = part.select(torch.tensor([False, True]))
    again.scores(again.x - 0.05)
    assert problem.meter.forward.tolist() == [0, 2, 0, 1]
    assert torch.allclose(problem.meter.harm[[1, 3]], torch.tensor(-0.4))
    assert torch.equal(part.worst(), problem.worst()[[3, 1]])
    assert torch.isinf(problem.meter.harm[[0, 2]]).all()
    wider = problem.within(0.5)
    wider.scores(x + 0.4)
    assert torch.equal(problem.worst()[0], x[0])


def test_of_several_candidates_for_one_image_the_worst_is_kept(mean_red):
    x = torch.full((2, 3, 8, 8), 0.5)
    problem = Problem.of(mean_red, x, label=label(0, 1), eps=0.1)
    many = problem.select([0, 0, 0, 1, 1])
    shift = torch.tensor([0.01, 0.09, 0.05, -0.03, -0.02])[:, None, None, None]
    many.scores(many.x + shift)
    assert problem.meter.forward.tolist() == [3, 2]
    assert torch.allclose(problem.meter.harm, torch.tensor([0.59, -0.47]))
    assert torch.allclose(problem.worst()[:, 0, 0, 0], torch.tensor([0.59, 0.47]))


def test_what_hurts_the_patches_most_is_kept_too(mean_red):
    x = torch.full((1, 3, 8, 8), 0.5)
    mask = torch.tensor([[False, True]])  # a level of 0.5 and, as both are alike, a spread of 1
    problem = Problem.of(mean_red, x, label=label(1), mask=mask, eps=0.1)
    up, down = x.clone(), x.clone()
    up[:, 0, :4] += 0.1  # raises the normal patch: worse pixels, a better image score
    down[:, 0, 4:] -= 0.05
    problem.scores(up)
    problem.scores(down)
    assert torch.allclose(problem.meter.pixel.value, torch.tensor([0.1]))
    assert torch.allclose(problem.meter.order.value, torch.tensor([0.1 / 1.1]))
    for record in (problem.meter.pixel, problem.meter.order):
        assert torch.equal(record.images, up)
    assert torch.equal(problem.worst(), down)


def test_scales_are_given_known_or_made_of_each_image(mean_red, images):
    x = images(3)
    clean = mean_red.patch_scores(x)
    own = Problem.of(mean_red, x, label=label(0, 0, 0), eps=0.1).scores(x)
    assert torch.allclose(own.logit, LogitScale.of_images(clean).of(clean))
    alone = Problem.of(mean_red, x[1:2], label=label(0), eps=0.1).scores(x[1:2])
    assert torch.allclose(alone.logit[0], own.logit[1], atol=1e-5)
    given = LogitScale(torch.tensor(0.25), torch.tensor(0.5))
    found = Problem.of(mean_red, x, label=label(0, 0, 0), eps=0.1, scale=given).scores(x)
    assert torch.allclose(found.logit, (clean - 0.25) / 0.5)
    mean_red.scores_are_logits = True
    assert Problem.of(mean_red, x, label=label(0, 0, 0), eps=0.1).scale is None
    wrong = LogitScale(torch.zeros(2), torch.ones(2))
    with pytest.raises(InputError, match=r"scale: expected tau of shape \(\) or \(3,\), got \(2,"):
        Problem.of(mean_red, x, label=label(0, 0, 0), eps=0.1, scale=wrong)


def test_every_purpose_draws_its_own_numbers(mean_red, images):
    problem = Problem.of(mean_red, images(3), label=label(0, 0, 0), eps=0.1, seeds=[4, 5, 4])
    draws = [[torch.rand(3, generator=problem.generator(i, p)) for p in (0, 1)] for i in range(3)]
    assert torch.equal(draws[0][0], draws[2][0])
    assert not torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[0][1])
    starts = [problem.start(purpose) for purpose in (0, 1)]
    assert not torch.equal(*starts)
    assert problem.inside(starts[0]).all()


def test_steps_end_in_the_ball_in_every_norm(mean_red, images):
    for norm, eps in (("linf", 0.1), ("l2", 0.5), ("l1", 2.0)):
        x = images(4)
        problem = Problem.of(mean_red, x, label=label(0, 1, 0, 1), eps=eps, norm=norm)
        assert not problem.inside(x + 0.5).any()
        assert problem.inside(problem.project(x + 0.5)).all()


def test_dead_gradients_are_flagged(scorer, images):
    flat = scorer(lambda x: (x * 0).flatten(2).sum(dim=2) + x.detach().flatten(2).mean(dim=2))
    found = attack(flat, images(), label=label(0, 1, 0, 1), attack="pgd10", steps=3)
    assert found.flags == ("zero_gradient",)
    assert torch.equal(found.x_adv, images())
    alive = scorer(lambda x: x.flatten(2).mean(dim=2))
    assert attack(alive, images(), label=label(0, 1, 0, 1), attack="fgsm").flags == ()


def test_overflow_in_low_precision_is_flagged_not_fatal(scorer, images):
    x = images()
    x[1, 0, 0, 0] = 0.0
    rooted = scorer(lambda x: x.sqrt().flatten(2).mean(dim=2))
    options = {"label": label(0, 0, 0, 0), "attack": "pgd10", "steps": 2}
    with pytest.raises(InputError, match=r"its gradient is not finite for images \[1\]"):
        attack(rooted, x, **options)
    found = attack(rooted, x, precision=torch.bfloat16, **options)
    assert "nonfinite_gradient" in found.flags
    assert (found.score > found.clean_score).all()


def test_thresholds_come_from_the_detector_or_the_caller(mean_red, images):
    class Calibrated:
        def score_at(self, probability):
            return 0.5 if probability == 0.25 else 9.0

    class Policy:
        threshold = 0.25

    x, given = images(), {"label": label(0, 1, 0, 1), "attack": "fgsm", "eps": 0.3}
    assert attack(mean_red, x, **given).success is None
    mean_red.calibrator, mean_red.policy = Calibrated(), Policy()
    assert attack(mean_red, x, **given).success.tolist() == [True] * 4
    assert attack(mean_red, x, threshold=0.9, **given).success.tolist() == [False, True] * 2


def test_thresholds_of_a_detector_that_knows_normal_images_alone(mean_red, images):
    from robustad.conformal import ConformalScores
    from robustad.verdict import Policy

    mean_red.calibrator, mean_red.conformal = None, ConformalScores([0.1, 0.2, 0.3])
    x, given = images(), {"label": label(0, 1, 0, 1), "attack": "fgsm", "eps": 0.3}
    mean_red.policy = Policy()
    assert attack(mean_red, x, **given).success is None
    mean_red.policy = Policy(p_value_threshold=0.25)
    found = attack(mean_red, x, **given)
    assert found.success.tolist() == ((found.score > 0.3) == (given["label"] == 0)).tolist()
    mean_red.policy = Policy(p_value_threshold=0.1)  # three images cannot promise that
    assert attack(mean_red, x, **given).success is None


def test_keep_says_which_image_is_returned(scorer, images):
    wild = scorer(lambda x: torch.sin(300 * x.flatten(2).mean(dim=2)))
    x, given = images(12), {"label": torch.tensor([0, 1] * 6), "attack": "pgd10", "eps": 0.05}
    sign = 1 - 2 * given["label"]
    found = {keep: attack(wild, x, keep=keep, **given) for keep in ("best", "last", "worst")}
    assert torch.equal(found["worst"].x_adv, found["worst"].x_worst)
    assert torch.equal(found["worst"].score, found["worst"].worst_score)
    assert torch.equal(found["best"].score, found["best"].worst_score)  # its objective is the score
    assert (sign * (found["best"].score - found["last"].score) >= 0).all()
    assert (sign * (found["best"].score - found["last"].score) > 0).any()
    with pytest.raises(InputError, match="keep: expected 'best', 'last' or 'worst', got 'first'"):
        attack(wild, x, keep="first", **given)


def test_an_attack_on_patches_still_reports_the_worst_image_score(smooth, images):
    mask = torch.zeros(4, 6).bool()
    mask[1::2, :3] = True
    given = {"label": label(0, 1, 0, 1), "mask": mask, "eps": 0.1}
    found = attack(smooth(), images(), attack="pgd20_flip", **given)
    sign = 1 - 2 * given["label"]
    assert (sign * found.worst_score >= sign * found.score).all()
    assert (sign * found.worst_score > sign * found.score).any()
    clean, returned, plain, order = (
        one.detach().numpy()
        for one in (
            found.clean_patch_scores,
            found.patch_scores,
            found.pixel_patch_scores,
            found.order_patch_scores,
        )
    )
    truth, scale = mask.numpy(), LogitScale.of_images(found.clean_patch_scores)

    def squashed(patch):
        return order_margin(patch, truth, clean=clean, scale=scale)

    for rule, kept, other in (
        (lambda patch: pair_margin(patch, truth), plain, order),
        (squashed, order, plain),
    ):
        least = np.minimum(np.minimum(rule(clean), rule(returned)), rule(other))
        assert (rule(kept) <= least + 1e-6).all()
        assert (rule(kept) < rule(clean)).all()
