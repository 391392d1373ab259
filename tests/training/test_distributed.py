import os
import subprocess
import sys

import pytest
import torch

from robustad.training import train

SCRIPT = """
import json, sys
from robustad.data.surfaces import Surfaces
from robustad.training import train
images = Surfaces(size=64, train=7, test_good=3, per_defect=1).load("tray")
train(images, "fast", out=sys.argv[1], overrides=json.loads(sys.argv[2]))
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(images, tiny, tmp_path):
    """Gradients averaged over two halves of a batch are those of the batch."""
    import json

    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no Gloo")
    tiny |= {
        "network.discriminator_dropout": 0.0,
        "optimiser.batch_size": 2,
        "optimiser.epochs": 2,
        "attack.start": "zero",
        "optimiser.clip": None,
    }
    alone = train(images, "fast", out=tmp_path / "one", overrides=tiny)
    script = tmp_path / "script.py"
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
        str(tmp_path / "two"),
        json.dumps(tiny),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    import robustad

    both = robustad.load(tmp_path / "two" / "detector.safetensors")
    x = alone.prepare([sample.image for sample in images.test])
    with torch.no_grad():
        a, b = alone.patch_scores(x), both.patch_scores(x)
    assert (a - b).abs().max() < 0.02 * a.abs().max()
