"""Why a smoothed detector is not exported."""

from torch import nn

from robustad.detectors import Detector
from robustad.errors import InputError


def refuse(detector: Detector) -> nn.Module:
    """Raise InputError: the noise is drawn outside of any graph.

    Raises
    ------
    InputError
        Always.
    """
    raise InputError(
        "detector: a smoothed detector draws its noise outside of the network and is not exported; "
        "export its `base`, whose file `robustad certify` takes as well"
    )
