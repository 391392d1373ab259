import numpy as np
import pytest

from robustad.calibration import RawScore, calibrator_from_dict
from robustad.errors import InputError, StateError


def test_scores_are_clipped_and_otherwise_left_alone():
    raw = RawScore().fit([5.0, 6.0], [0, 1])
    np.testing.assert_array_equal(
        raw.predict_proba([-1.0, 0.0, 0.3, 1.0, 7.0]), [0.0, 0.0, 0.3, 1.0, 1.0]
    )
    assert raw.predict_proba([]).shape == (0,)


def test_saved_and_restored():
    assert isinstance(calibrator_from_dict(RawScore().to_dict()), RawScore)


def test_errors_are_named():
    with pytest.raises(InputError, match=r"scores: .* got nan at index 0"):
        RawScore().predict_proba([np.nan])
    with pytest.raises(StateError, match=r"expected {'method': 'raw'}, got .*'slope': 1"):
        calibrator_from_dict({"method": "raw", "slope": 1})
