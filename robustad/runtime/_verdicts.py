"""Verdicts as the numbers a graph computes with: their codes, and a policy's thresholds."""

from collections.abc import Iterable
from dataclasses import asdict, fields

import numpy as np
import numpy.typing as npt

from robustad.verdict import Policy, Verdict

OUTPUT = "verdict"
PREFIX = "policy_"
# The code of a verdict is its place here.
VERDICTS = tuple(Verdict)
# Inputs with a default, float64: float32 cannot tell all p-values from the thresholds beside them.
POLICY = tuple(PREFIX + one.name for one in fields(Policy))


def policy_numbers(policy: Policy) -> dict[str, npt.NDArray[np.float64]]:
    """Scalars by the names of the graph's inputs; NaN for a part that is not set.

    Examples
    --------
    >>> numbers = policy_numbers(Policy(threshold=0.25))
    >>> {name: float(value) for name, value in list(numbers.items())[:2]}
    {'policy_threshold': 0.25, 'policy_entropy_threshold': nan}
    """
    return {
        PREFIX + name: np.array(np.nan if value is None else value, np.float64)
        for name, value in asdict(policy).items()
    }


def codes_of(verdicts: Iterable[Verdict]) -> npt.NDArray[np.int64]:
    """Codes (B,), int64, of verdicts.

    Examples
    --------
    >>> codes_of([Verdict.ACCEPT, Verdict.REJECT, Verdict.DEFER, Verdict.UNCALIBRATED]).tolist()
    [0, 1, 2, 3]
    """
    return np.array([VERDICTS.index(one) for one in verdicts], np.int64)
