import json
import os
import subprocess
import sys

import pytest
import torch

import robustad
from robustad.training import checkpoint, train
from robustad.training.distributed import Processes
from robustad.training.trainer import CHECKPOINT

SCRIPT = """
import json, os, sys
from robustad.data.surfaces import Surfaces
from robustad.training import train
if len(sys.argv) > 3:  # one process of two has a loss that is not finite, in its last step
    from robustad.training.step import Step
    attacked, calls = Step.attacked, []
    def poisoned(self, *args, **options):
        batch = attacked(self, *args, **options)
        calls.append(1)
        if os.environ["RANK"] == "1" and len(calls) == int(sys.argv[3]):
            batch.x[0, 0, 0, 0] = float("nan")
        return batch
    Step.attacked = poisoned
images = Surfaces(size=64, train=7, test_good=3, per_defect=1).load("tray")
train(images, "fast", out=sys.argv[1], overrides=json.loads(sys.argv[2]))
"""


def of_two(folder, overrides, *more):
    """Run the script in two processes, as a user starts them."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no Gloo")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port=0",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
        str(script),
        str(folder / "two"),
        json.dumps(overrides),
        *more,
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("start", ["zero", "warm"])
def test_two_processes_take_the_steps_of_one(images, tiny, tmp_path, start):
    """Gradients averaged over two halves of a batch are those of the batch."""
    tiny |= {
        "network.discriminator_dropout": 0.0,
        "optimiser.batch_size": 2,
        "optimiser.epochs": 3,
        "attack.start": start,
        "attack.clean_epochs": 0,
        "attack.ramp_epochs": 0,
        "optimiser.clip": None,
        # attacks that hardly move the weights: they see where the last one ended
        "attack.steps": 1,
    }
    alone = train(images, "fast", out=tmp_path / "one", overrides=tiny)
    done = of_two(tmp_path, tiny)
    assert done.returncode == 0, done.stderr[-2000:]
    both = robustad.load(tmp_path / "two" / "detector.safetensors")
    x = alone.prepare([sample.image for sample in images.test])
    with torch.no_grad():
        a, b = alone.patch_scores(x), both.patch_scores(x)
    assert (a - b).abs().max() < 0.02 * a.abs().max()
    if start == "warm":
        _, found = checkpoint.read(tmp_path / "two" / CHECKPOINT)
        _, expected = checkpoint.read(tmp_path / "one" / CHECKPOINT)
        assert not found["ended"].isnan().any()  # the first knows what the second found
        same = (found["ended"].float() - expected["ended"].float()).abs() < 1e-3
        assert same.float().mean() > 0.9


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_all(tiny, tmp_path):
    tiny |= {"optimiser.batch_size": 2, "validation.every": 0, "attack.steps": 1}
    done = of_two(tmp_path, tiny, "6")  # the last step of the second epoch
    assert done.returncode != 0
    assert done.stderr.count("TrainingError: the loss or its gradient is not finite") == 2
    progress, tensors = checkpoint.read(tmp_path / "two" / CHECKPOINT)
    assert progress.epoch == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def test_one_process_agrees_with_itself():
    alone = Processes(0, 1, torch.device("cpu"))
    value = torch.ones(2)
    assert alone.mean(value) is value
    assert alone.agreed("a") == "a"
    assert alone.gathered(value)[0] is value
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert Processes(1, 2, torch.device("cpu")).share([1, 2, 3]) == [2]
