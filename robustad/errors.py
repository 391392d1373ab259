"""Errors robustad raises on purpose; each says what was expected, what came, and where."""


class RobustadError(Exception):
    """Base of every error raised on purpose; the CLI prints it without a traceback."""


class InputError(RobustadError, ValueError):
    """An argument or image is not what the operation takes."""


class DataError(RobustadError, ValueError):
    """A data set on disk is incomplete, corrupt or laid out differently than expected."""


class StateError(RobustadError, ValueError):
    """A saved detector, checkpoint or result file is damaged, foreign or of another version."""


class WeightsError(RobustadError, RuntimeError):
    """Backbone weights can neither be found nor downloaded, or do not fit the model."""


class NotFittedError(RobustadError, RuntimeError):
    """The detector or calibrator has to be fitted before this call."""


class VerificationError(RobustadError, RuntimeError):
    """An exported file disagrees with the detector it was exported from."""


class MissingDependencyError(RobustadError, ImportError):
    """An optional dependency is needed for this call but not installed."""


class TrainingError(RobustadError, RuntimeError):
    """Training cannot go on from where it is; what was saved before is intact."""
