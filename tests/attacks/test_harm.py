import pytest
import torch

from robustad.attacks.harm import PixelHarm
from robustad.attacks.objectives import LogitScale, Scores, flip, misorder


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("count", "patches"), [(1, 1), (1, 257), (4, 64), (7, 1369)])
def test_harm_is_bitwise_that_of_the_objectives(count, patches, scaled):
    generator = torch.Generator().manual_seed(count * patches)
    clean, patch = torch.randn(2, count, patches, generator=generator)
    mask = torch.rand(count, patches, generator=generator) < 0.3
    if count > 2:  # no patches of one kind
        mask[0], mask[1] = False, True
    scale = LogitScale.of_images(clean) if scaled else None
    own = LogitScale.of_normal_patches(clean, mask)
    scores = Scores(
        patch=patch,
        image=patch[:, 0],
        label=torch.zeros(count, dtype=torch.int64),
        mask=mask,
        scale=scale,
        own=own,
    )
    found = PixelHarm.of(mask, scale, own, clean)(patch)
    assert torch.equal(found, torch.stack([flip(scores), misorder(scores)]))
