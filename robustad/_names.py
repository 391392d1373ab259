"""What an unknown name was probably meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(given: str, known: Iterable[str]) -> str:
    """Give the end of an error message about an unknown name.

    Parameters
    ----------
    given : str
        The unknown name.
    known : iterable of str
        Names there are; parts of a name are joined by dots.

    Returns
    -------
    str
        `; did you mean optimiser.epochs?`, or nothing where no name is near.

    Examples
    --------
    >>> suggestion("optimizer.epoch", ["optimiser.epochs", "optimiser.ema"])
    '; did you mean optimiser.epochs?'
    >>> suggestion("epochs", ["optimiser.epochs", "attack.eps"])
    '; did you mean optimiser.epochs?'
    >>> suggestion("weather", ["optimiser.epochs"])
    ''
    """
    names = list(known)
    # The right name in the wrong section, or in none, is nearer than one that looks alike.
    last = given.rpartition(".")[2]
    same = [name for name in names if name.rpartition(".")[2] == last]
    near = same[:1] if len(same) == 1 else get_close_matches(given, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
