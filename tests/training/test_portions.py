"""How many images pass a network at once."""

import pytest
import torch

from robustad.networks import NetworkConfig, create
from robustad.training.portions import CPU_VALUES, images_at_once, portions

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TINY = {"image_size": 56, "depth": 1, "embed_dim": 32, "num_heads": 2}


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, None), (7, 1), (7, 3), (6, 3), (2, 9)])
def test_portions_cover_every_image_once(count, size):
    seen = [i for part in portions(count, size) for i in range(count)[part]]
    assert seen == list(range(count))
    assert all(part.stop - part.start <= (size or count) for part in portions(count, size))


def test_a_vit_passes_what_a_cpu_holds():
    network = create(NetworkConfig(**TINY), "random")
    assert images_at_once(network, CPU) == CPU_VALUES // (16 * 32)
    assert images_at_once(network, CUDA) is None


def test_batch_normalisation_sees_whole_batches():
    network = create(NetworkConfig(body="resnet18", patch_size=16, image_size=64), "random")
    assert images_at_once(network, CPU) is None
