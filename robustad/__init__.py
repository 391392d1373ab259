"""Visual anomaly detection that can be trusted under attack.

Names are resolved on first use, so that `import robustad` costs nothing and the runtime on a line
PC needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustad import conformal, data, metrics, ops, runtime
    from robustad.attacks import AttackResult, attack
    from robustad.calibration import Platt, calibrate
    from robustad.certificates import Certification, SmoothedDetector, certify
    from robustad.detectors import (
        AnomalyDINO,
        BankEnsemble,
        Detector,
        PatchGuard,
        PatchScorer,
        load,
    )
    from robustad.errors import RobustadError
    from robustad.evaluation import Evaluation, evaluate
    from robustad.export import export_onnx, verify
    from robustad.prediction import Prediction
    from robustad.report import write_report
    from robustad.training import train
    from robustad.verdict import Policy, Verdict

__version__ = "0.1.0"

_HOME = {
    "AnomalyDINO": "robustad.detectors",
    "AttackResult": "robustad.attacks",
    "BankEnsemble": "robustad.detectors",
    "Certification": "robustad.certificates",
    "Detector": "robustad.detectors",
    "Evaluation": "robustad.evaluation",
    "PatchGuard": "robustad.detectors",
    "PatchScorer": "robustad.detectors",
    "Platt": "robustad.calibration",
    "Policy": "robustad.verdict",
    "Prediction": "robustad.prediction",
    "RobustadError": "robustad.errors",
    "SmoothedDetector": "robustad.certificates",
    "Verdict": "robustad.verdict",
    "attack": "robustad.attacks",
    "calibrate": "robustad.calibration",
    "certify": "robustad.certificates",
    "evaluate": "robustad.evaluation",
    "export_onnx": "robustad.export",
    "load": "robustad.detectors",
    "train": "robustad.training",
    "verify": "robustad.export",
    "write_report": "robustad.report",
}
_MODULES = frozenset({"conformal", "data", "metrics", "ops", "runtime"})

__all__ = [
    "AnomalyDINO",
    "AttackResult",
    "BankEnsemble",
    "Certification",
    "Detector",
    "Evaluation",
    "PatchGuard",
    "PatchScorer",
    "Platt",
    "Policy",
    "Prediction",
    "RobustadError",
    "SmoothedDetector",
    "Verdict",
    "__version__",
    "attack",
    "calibrate",
    "certify",
    "conformal",
    "data",
    "evaluate",
    "export_onnx",
    "load",
    "metrics",
    "ops",
    "runtime",
    "train",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = import_module(f"robustad.{name}")
    else:
        raise AttributeError(f"module 'robustad' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
