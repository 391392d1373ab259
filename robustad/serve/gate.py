"""What every request passes: a bound on how many there are, a count, and no traceback outside."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from robustad.serve.body import drain
from robustad.serve.limits import Limits, Refusal
from robustad.serve.metrics import Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("robustad.serve")
GONE = 499  # in the metrics alone, as proxies write it
# Always answered, so that a busy service is not taken for a dead one.
EXEMPT = ("/v2/health/", "/metrics")


class Gate:
    """ASGI middleware around the service.

    Parameters
    ----------
    app : ASGI application
        The service.
    limits : Limits
        `requests` counts here.
    metrics : Metrics
        To count in.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self._at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from starlette.requests import ClientDisconnect, Request

        status = 500
        began = False

        async def watched(message: Message) -> None:
            nonlocal status, began
            if message["type"] == "http.response.start":
                status, began = message["status"], True
            await send(message)

        start = time.perf_counter()
        exempt = scope["path"].startswith(EXEMPT)
        full = not exempt and self._at_work >= self.limits.requests
        self._at_work += not exempt and not full
        self.metrics.at_work.set(self._at_work)
        try:
            if full:
                await drain(Request(scope, receive), self.limits)
                refused = Refusal(
                    503, f"{self.limits.requests} requests are at work; try again", retry_after=1
                )
                await answer(watched, refused)
            else:
                await self.app(scope, receive, watched)
        except ClientDisconnect:
            status = GONE  # nobody is left to answer
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not began:
                await answer(watched, Refusal(500, "internal error; see the service's log"))
        finally:
            self._at_work -= not exempt and not full
            self.metrics.at_work.set(self._at_work)
            endpoint = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(endpoint, str(status)).inc()
            self.metrics.seconds.labels(endpoint).observe(time.perf_counter() - start)


def headers_of(refusal: Refusal) -> dict[str, str]:
    """Headers that go with a refusal; the connection may be in the middle of a body."""
    headers = {"Connection": "close"} if refusal.status in (408, 413, 503) else {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    return headers


async def answer(send: Any, refusal: Refusal) -> None:
    """Send a refusal as JSON, with plain ASGI."""
    body = json.dumps({"error": str(refusal)}).encode()
    headers: Mapping[str, str] = {"Content-Type": "application/json", **headers_of(refusal)}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
