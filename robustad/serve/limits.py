"""What a service takes, and how it says no."""

from dataclasses import dataclass, fields

from robustad.errors import InputError


class Refusal(Exception):  # noqa: N818
    """A request that gets an HTTP status other than 200.

    Parameters
    ----------
    status : int
        The status.
    message : str
        What was expected and what came; the client reads it.
    retry_after : int, optional
        Seconds after which to try again.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what a service takes; with them its memory is bounded.

    Parameters
    ----------
    body_bytes : int, default 64 MiB
        Of a request. Above it: 413.
    images : int, default 32
        In a request. Above it: 413.
    pixels : int, default 40 million
        Of an image, before it is decoded. Above it: 413.
    requests : int, default 32
        At work or waiting at the same time. Above it: 503 with Retry-After.
    queue : int, default 64
        Images that wait for a model. Above it: 503 with Retry-After.
    batch : int, default 8
        Images that a model scores at once, from one request or several.
    delay : float, default 0.002
        Seconds that a model waits for more images once it has one.
    body_seconds : float, default 30
        For a body to arrive. Above it: 408.
    seconds : float, default 60
        For an answer. Above it: 504.

    Raises
    ------
    InputError
        If a value is not positive.
    """

    body_bytes: int = 64 << 20
    images: int = 32
    pixels: int = 40_000_000
    requests: int = 32
    queue: int = 64
    batch: int = 8
    delay: float = 0.002
    body_seconds: float = 30.0
    seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value >= 0 if field.name == "delay" else value > 0):
                raise InputError(f"{field.name}: expected a positive number, got {value}")
