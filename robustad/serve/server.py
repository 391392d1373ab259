"""Running the service until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

from robustad._imports import require
from robustad.errors import InputError
from robustad.runtime import OnnxDetector
from robustad.serve.app import create_app
from robustad.serve.limits import Limits


def serve(
    models: Mapping[str, OnnxDetector],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    grace: float = 30.0,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve models over HTTP until SIGTERM or SIGINT; requests at work are finished first.

    Parameters
    ----------
    models : mapping of str to OnnxDetector
        By name. They are warmed up before the first request is taken.
    host : str, default "127.0.0.1"
        Address to listen at: by default, this machine alone.
    port : int, default 8000
        0 takes a free one.
    limits : Limits, optional
        What is taken.
    grace : float, default 30
        Seconds that requests at work have when the service is told to stop.
    started : callable, optional
        Called with the service's address once it listens.

    Raises
    ------
    InputError
        If there is no model, or the address cannot be listened at.
    MissingDependencyError
        If the extra `serve` is not installed.
    """
    uvicorn: Any = require("uvicorn", extra="serve", purpose="robustad serve")
    limits = Limits() if limits is None else limits
    for model in models.values():
        model.warm_up((1, limits.batch))
    app = create_app(models, limits)
    try:
        listening = socket.create_server((host, port), backlog=128)
    except (OSError, OverflowError) as error:
        app.state.service.close()
        raise InputError(f"host, port: cannot listen at {host}:{port}: {error}") from error
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(grace),
    )
    server = uvicorn.Server(config)

    # uvicorn takes signals only while it runs, and raises them again once it has stopped: one that
    # comes before must not be lost, and stopping when told to is no failure.
    def stop(number: int, frame: Any) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        address = listening.getsockname()
        started(f"http://{host}:{address[1]}")
        asyncio.run(server.serve(sockets=[listening]))
    finally:
        listening.close()
        for number, handler in before.items():
            signal.signal(number, handler)
