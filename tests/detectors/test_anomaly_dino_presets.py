import pytest

from robustad.detectors.anomaly_dino_presets import preprocessing_for
from robustad.errors import InputError

MVTEC = {
    "masked": ("capsule", "hazelnut", "pill", "screw", "toothbrush"),
    "plain": ("bottle", "cable", "carpet", "grid", "leather", "metal_nut", "tile", "transistor"),
}


@pytest.mark.parametrize("category", [*MVTEC["masked"], *MVTEC["plain"]])
def test_presets_of_mvtec(category):
    mask = category in MVTEC["masked"]
    assert preprocessing_for("mvtec", category) == (True, mask)
    turned = category in ("hazelnut", "screw")
    assert preprocessing_for("mvtec", category, "informed") == (turned, mask)
    assert preprocessing_for("mvtec", category, "masking_only") == (False, mask)
    assert preprocessing_for("mvtec", category, "none") == (False, False)


@pytest.mark.parametrize("category", ["candle", "pcb1", "screw"])
def test_presets_of_visa(category):
    assert preprocessing_for("visa", category) == (True, True)
    assert preprocessing_for("visa", category, "informed") == (False, True)
    assert preprocessing_for("visa", category, "masking_only") == (False, True)
    assert preprocessing_for("visa", category, "none") == (False, False)


def test_unknown_preprocessing():
    with pytest.raises(InputError, match=r"preprocessing: expected 'agnostic'.* got 'all'"):
        preprocessing_for("mvtec", "screw", "all")
