"""Our strongest attack for its cost: the image score and the patches, from several starts."""

from __future__ import annotations

import torch
from torch import Tensor

from robustad.attacks.apgd import apgd
from robustad.attacks.objectives import evading, image, image_relaxed
from robustad.attacks.problem import Problem
from robustad.calibration import Calibrator


def adaptive(problem: Problem, *, calibrator: Calibrator | None = None, plan: tuple = ()) -> Tensor:
    """Draft."""
    sign_steps = dict(plan) if plan else {}
    g = sign_steps.get
    if g("relaxed"):
        a = apgd(problem.aimed(image_relaxed), steps=g("relaxed"))
        apgd(
            problem.aimed(image), steps=g("image1", 60), start=a if g("froma") else problem.worst()
        )
    if g("image2"):
        apgd(problem.aimed(image), steps=g("image2"))
    if g("image3"):
        apgd(
            problem.aimed(image),
            steps=g("image3"),
            start=problem.worst(),
            step_size=problem.eps * g("s3", 0.5),
        )
    if g("random"):
        apgd(problem.aimed(image), steps=g("random"), random=True)
    if problem.mask is not None and g("flip"):
        start = problem.meter.pixel.images
        apgd(problem.aimed("flip"), steps=g("flip"), start=start)
    return problem.worst()
