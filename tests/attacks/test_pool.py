"""Images of the other class to start from."""

import pytest
import torch

from robustad.attacks import attack
from robustad.attacks.pool import check_pool, offered
from robustad.errors import InputError

LABEL = torch.tensor([1, 0, 1])


def plain(*values):
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 8, 8).clone()


def test_each_image_is_offered_the_other_class_nearest_first():
    x = plain(0.1, 0.5, 0.9)
    pool = {0: plain(0.0, 1.0, 0.6), 1: plain(0.3)}
    turns = [(one[:, 0, 0, 0], there.tolist()) for one, there in offered(pool, x, LABEL)]
    assert [there for _, there in turns] == [[True] * 3, *[[True, False, True]] * 2]
    expected = [[0.0, 0.3, 1.0], [0.6, 0.5, 0.6], [1.0, 0.5, 0.0]]
    assert torch.allclose(torch.stack([values for values, _ in turns]), torch.tensor(expected))


def test_a_tensor_is_offered_to_everybody_and_nothing_to_nobody():
    x = plain(0.1, 0.5, 0.9)
    assert [there.tolist() for _, there in offered(plain(0.2, 0.4), x, LABEL)] == [[True] * 3] * 2
    for none in (None, {}, {0: x[:0]}):
        assert list(offered(none, x, LABEL)) == []


@pytest.mark.parametrize(
    ("pool", "match"),
    [
        (torch.zeros(2, 3, 4, 4), r"pool: expected images \(M, \(3, 8, 8\)\), got \(2, 3, 4, 4\)"),
        ({0: [1.0]}, "pool: expected images .* got list"),
        ({2: plain(0.1)}, r"pool: expected the labels 0 and 1 as keys, got \[2\]"),
        (plain(1.5), r"pool: expected values in \[0, 1\]"),
    ],
)
def test_other_pools_are_refused(smooth, pool, match):
    with pytest.raises(InputError, match=match):
        check_pool(pool, (3, 8, 8))
    with pytest.raises(InputError, match=match):
        attack(smooth(), plain(0.5), label=LABEL[:1], attack="hopskipjump9", pool=pool, threshold=0)


def test_attack_starts_where_noise_does_not(scorer, images):
    """Normal is only what is near some stripes, which no blur of the images and no noise is."""
    x, stripes = images(2), torch.zeros(1, 3, 8, 8)
    stripes[..., ::2] = 1.0
    made = scorer(lambda images: (images - stripes).abs().mean(dim=(1, 2, 3))[:, None])
    given = {"label": torch.ones(2), "attack": "hopskipjump300", "eps": 0.5, "threshold": 0.1}
    lost = attack(made, x, **given)
    assert "no_start" in lost.flags
    assert torch.equal(lost.x_adv, x)
    assert "no_start" in attack(made, x, pool={1: stripes}, **given).flags
    found = attack(made, x, pool={0: stripes}, **given)
    assert "no_start" not in found.flags
    assert (found.score < found.clean_score - 0.1).all()
    assert (found.forward <= 300).all()


def test_what_a_surrogate_gave_is_a_start(linear, scorer, images):
    """The nearest one, the image's own, is tried first."""
    x = images(3)
    made, _ = linear(x.shape[1:], seed=1)
    near = attack(made, x, label=LABEL, attack="pgd10", eps=0.2)
    middle = (near.score + near.clean_score) / 2
    asked = []

    def blind(images):
        asked.append(images.clone())
        return made.patch_scores(images)

    attack(scorer(blind), x[:1], label=LABEL[:1], attack="hopskipjump40", eps=0.2,
           pool=near.x_adv, threshold=float(middle[0]))  # fmt: skip
    assert torch.equal(asked[1], near.x_adv[:1])


@pytest.mark.parametrize("name", ["hopskipjump200", "spsa600", "hopskipjump200_l2"])
def test_probes_share_calls_and_the_batch_of_probes_changes_nothing(scorer, images, name):
    x = images(2)
    weight = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(2))
    calls = []

    def rounded_alike(images):
        calls.append(len(images))
        return torch.stack([(one * weight).sum() for one in images])[:, None]

    made = scorer(rounded_alike)
    given = {"label": LABEL[:2], "attack": name, "eps": 0.1, "threshold": 0.0}
    found, sizes = {}, {}
    for size in (1, 7, 64):
        calls.clear()
        found[size] = attack(made, x, query_batch=size, **given)
        sizes[size] = list(calls)
    assert max(sizes[1]) <= (4 if "spsa" in name else 2)
    assert max(sizes[64]) > 20
    assert len(sizes[64]) < len(sizes[1]) / 2
    for size in (7, 64):
        assert torch.equal(found[size].forward, found[1].forward)
        assert torch.allclose(found[size].score, found[1].score, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="query_batch: expected >= 1, got 0"):
        attack(made, x, query_batch=0, **given)
