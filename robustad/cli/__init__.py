"""The `robustad` command: one module a verb."""

import sys
import warnings
from typing import TextIO

from robustad.errors import RobustadError, VerificationError

EXIT_ERROR = 1
EXIT_DISAGREE = 3
EXIT_REJECTED = 4
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line; turn deliberate errors into one line and an exit code.

    Exit codes: 0 success; 1 bad data, file or option value; 2 usage; 3 an exported file disagrees
    with its detector; 4 `predict --fail-on` found such an image; 130 interrupted.
    """
    from robustad.cli.app import app

    warnings.showwarning = _warn
    try:
        app()
    except VerificationError as error:
        _fail(error, EXIT_DISAGREE)
    except RobustadError as error:
        _fail(error, EXIT_ERROR)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", EXIT_INTERRUPTED)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Warnings of our own are meant for the person at the terminal; those of libraries are not.
    if category is UserWarning:
        print(f"robustad: warning: {message}", file=sys.stderr)


def _fail(message: object, code: int) -> None:
    print(f"robustad: error: {message}", file=sys.stderr)
    raise SystemExit(code)
