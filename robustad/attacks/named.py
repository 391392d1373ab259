"""What a named attack is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from robustad.attacks.options import Options
from robustad.attacks.problem import Problem
from robustad.attacks.projection import Norm

Access: TypeAlias = Literal["white", "score", "decision", "transfer"]
Run: TypeAlias = Callable[[Problem, Options], Tensor]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One named attack.

    Attributes
    ----------
    name : str
        As `attack` takes it.
    optimiser : str
        Family of the optimiser.
    objective : str
        A key of `OBJECTIVES`; `probe` for the linear probe's cross-entropy, `several` where an
        attack has its own.
    steps : int, default 1
        Gradient steps; of attacks with several stages all together; 0 without gradients.
    norm : {"linf", "l2", "l1"}, default "linf"
        Of the ball that the attack stays in.
    access : {"white", "score", "decision", "transfer"}, default "white"
        What the attacker sees: gradients, scores, verdicts, or another model.
    needs : set of str
        Of "mask", "threshold", "surrogate", "probe", "features", "bank", "calibrator".
    takes : set of str
        Options of the schedule that may be given; "pool" if it starts from other images.
    summary : str
        One line for help texts and reports.
    run : callable
        From `Problem` and `Options` to images (B, 3, H, W) inside the ball.
    """

    name: str
    optimiser: str
    objective: str
    steps: int = 1
    norm: Norm = "linf"
    access: Access = "white"
    needs: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    summary: str
    run: Run
