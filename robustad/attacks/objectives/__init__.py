"""What an attack maximises, image by image."""

from robustad.attacks.objectives.entropy import entropy, evading
from robustad.attacks.objectives.image import image, image_relaxed, relaxed, smooth
from robustad.attacks.objectives.patch import (
    bce,
    flip,
    js,
    margin,
    masked_ce,
    masked_ce_balanced,
    misorder,
    section_l,
    segpgd,
)
from robustad.attacks.objectives.scores import (
    LogitScale,
    Objective,
    Scores,
    patch_mask,
    require_mask,
)
from robustad.errors import InputError

OBJECTIVES: dict[str, Objective] = {
    "image": image,
    "flip": flip,
    "bce": bce,
    "image_relaxed": image_relaxed,
    "section_l": section_l,
    "segpgd": segpgd,
    "masked_ce": masked_ce,
    "masked_ce_balanced": masked_ce_balanced,
    "js": js,
    "margin": margin(),
    "misorder": misorder,
}
# Those that do without ground-truth masks.
MASKLESS = frozenset({"image", "image_relaxed"})
# One line of each, for help texts and reports.
AIMS = {
    "image": "the reported image score",
    "flip": "normal patches up, anomalous ones down (PatchGuard's published attack)",
    "bce": "the patches' mean cross-entropy",
    "image_relaxed": "the mean of four times as many patches as the image score takes",
    "section_l": "all patches of normal images up, anomalous patches down",
    "segpgd": "the patches' cross-entropy, weighed as in SegPGD",
    "masked_ce": "the cross-entropy of patches still right",
    "masked_ce_balanced": "the cross-entropy of patches still right, both kinds weighed alike",
    "js": "the patches' Jensen-Shannon divergence from the truth",
    "margin": "the patches' margin (Carlini and Wagner)",
    "misorder": "patches in the wrong order, as pixel AUROC counts them",
}

__all__ = [
    "AIMS",
    "MASKLESS",
    "OBJECTIVES",
    "LogitScale",
    "Objective",
    "Scores",
    "bce",
    "entropy",
    "evading",
    "flip",
    "image",
    "image_relaxed",
    "js",
    "margin",
    "masked_ce",
    "masked_ce_balanced",
    "misorder",
    "patch_mask",
    "relaxed",
    "require_mask",
    "resolve",
    "section_l",
    "segpgd",
    "smooth",
]


def resolve(objective: str | Objective) -> Objective:
    """Find an objective by name, or pass a callable on.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    if callable(objective):
        return objective
    if objective not in OBJECTIVES:
        raise InputError(f"objective: expected one of {sorted(OBJECTIVES)}, got {objective!r}")
    return OBJECTIVES[objective]
