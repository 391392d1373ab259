import torch

from robustad import attack
from robustad.attacks.problem import Problem
from robustad.attacks.typical import typical_instead


def made(linear, label):
    scorer, weight = linear((3, 4, 4), patches=1)
    x = torch.full((4, 3, 4, 4), 0.5)
    problem = Problem.of(scorer, x, label=torch.tensor(label), eps=0.05)
    found = x - 0.05 * weight.sign()
    clean = scorer.aggregate(scorer.patch_scores(x))
    reached = scorer.aggregate(scorer.patch_scores(found))
    return scorer, problem, found, clean, reached


def test_anomalies_step_back_to_the_typical_score(linear):
    scorer, problem, found, clean, reached = made(linear, [1, 1, 0, 1])
    typical = float((0.3 * clean + 0.7 * reached)[0])
    moved = typical_instead(problem, found, typical)
    score = scorer.aggregate(scorer.patch_scores(moved))
    span = float((clean - reached)[0])
    assert (score[[0, 1, 3]] <= typical + 1e-5).all()
    assert (score[[0, 1, 3]] >= typical - span / 2**11).all()
    assert torch.equal(moved[2], found[2])  # a normal image has nothing to hide
    assert float((moved - problem.x).abs().max()) <= 0.05 + 1e-7
    assert not problem.meter.flags


def test_what_is_not_too_low_stays(linear):
    _, problem, found, clean, reached = made(linear, [1, 1, 1, 1])
    assert torch.equal(typical_instead(problem, found, float(reached.min()) - 1), found)
    # where the clean image is below already, there is nothing to hide
    assert torch.equal(typical_instead(problem, found, float(clean.max()) + 1), problem.x)
    _, normal, found, _, _ = made(linear, [0, 0, 0, 0])
    assert torch.equal(typical_instead(normal, found, 0.0), found)


def test_adaptive_takes_it(linear):
    scorer, _ = linear((3, 4, 4), patches=1)
    x = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.02 + 0.5
    clean = scorer.aggregate(scorer.patch_scores(x))
    options = {"label": torch.ones(3), "attack": "adaptive", "eps": 0.05}
    plain = attack(scorer, x, **options)
    typical = float((clean.min() + plain.score.max()) / 2)
    sly = attack(scorer, x, typical=typical, **options)
    assert (plain.score < typical).all()
    assert torch.allclose(sly.score, torch.full((3,), typical), atol=1e-2 * float(clean.std() + 1))
    # what is returned is more modest, the worst case is kept beside it
    assert torch.allclose(sly.worst_score, plain.worst_score)
