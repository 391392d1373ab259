"""Which benchmark categories AnomalyDINO rotates and masks."""

from typing import Literal

from robustad.errors import InputError

Preprocessing = Literal["agnostic", "informed", "masking_only", "none"]

# Object categories whose test images are masked; VisA is masked throughout.
MASKED_MVTEC = frozenset({"capsule", "hazelnut", "pill", "screw", "toothbrush"})
# Categories whose parts lie in any orientation.
ROTATED_MVTEC = frozenset({"hazelnut", "screw"})


def preprocessing_for(
    dataset: str, category: str, preprocessing: Preprocessing = "agnostic"
) -> tuple[bool, bool]:
    """Whether references are rotated, and whether test images are masked.

    Parameters
    ----------
    dataset : str
        As for `robustad.data.load`; categories of other sets than MVTec AD and VisA are taken by
        their name alone.
    category : str
        For instance `screw`.
    preprocessing : {"agnostic", "informed", "masking_only", "none"}, default "agnostic"
        Agnostic rotates every category, informed only those whose parts lie in any orientation
        (hazelnut, screw), masking only none; all three mask the object categories. None does
        neither.

    Returns
    -------
    rotate, mask : bool
        Rotate references in 8 steps; mask test images.

    Raises
    ------
    InputError
        If `preprocessing` is unknown.

    Notes
    -----
    Damm et al., WACV 2025, section 4: masked are MVTec AD's capsule, hazelnut, pill, screw and
    toothbrush and all of VisA.

    Examples
    --------
    >>> preprocessing_for("mvtec", "screw"), preprocessing_for("visa", "pcb1", "informed")
    ((True, True), (False, True))
    """
    mask = dataset == "visa" or category in MASKED_MVTEC
    if preprocessing == "agnostic":
        return True, mask
    if preprocessing == "informed":
        return dataset != "visa" and category in ROTATED_MVTEC, mask
    if preprocessing == "masking_only":
        return False, mask
    if preprocessing == "none":
        return False, False
    raise InputError(
        "preprocessing: expected 'agnostic', 'informed', 'masking_only' or 'none', "
        f"got {preprocessing!r}"
    )
