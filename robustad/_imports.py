"""Optional dependencies, asked for where they are used."""

from importlib import import_module
from types import ModuleType

from robustad.errors import MissingDependencyError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import `module` or say which extra brings it.

    Parameters
    ----------
    module : str
        Dotted name of the module.
    extra : str
        The extra of the `robustad` distribution that installs it.
    purpose : str
        What it is needed for; completes the sentence "... is needed for".

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    MissingDependencyError
        If the module is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingDependencyError(
            f"{module.split('.')[0]} is needed for {purpose}: pip install 'robustad[{extra}]'"
        ) from error
