"""The service's addresses, as a FastAPI application."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

import robustad
from robustad._imports import require
from robustad.errors import InputError
from robustad.overlay import overlay
from robustad.runtime import OnnxDetector
from robustad.serve import protocol
from robustad.serve.batcher import Batcher, FloatArray, Scores, refusal_of
from robustad.serve.body import decode_file, read_body
from robustad.serve.gate import Gate, headers_of
from robustad.serve.limits import Limits, Refusal
from robustad.serve.metrics import Metrics

if TYPE_CHECKING:
    from robustad.images import Pixels

T = TypeVar("T")
VERSION = "1"
# Bodies decoded at once: enough to keep a model busy, few enough to bound memory.
DECODERS = 4


def create_app(models: Mapping[str, OnnxDetector], limits: Limits | None = None) -> Any:
    """Build the service.

    Parameters
    ----------
    models : mapping of str to OnnxDetector
        By the names under which they are asked for.
    limits : Limits, optional
        What it takes.

    Returns
    -------
    fastapi.FastAPI
        An ASGI application; `serve` runs it. Its models work in threads that end with it.

    Raises
    ------
    InputError
        If there is no model.
    MissingDependencyError
        If FastAPI or prometheus_client is not installed.
    """
    fastapi: Any = require("fastapi", extra="serve", purpose="robustad serve")
    if not models:
        raise InputError("models: expected at least one, got none")
    service = Service(models, Limits() if limits is None else limits)
    responses: Any = require("starlette.responses", extra="serve", purpose="robustad serve")
    http: Any = require("starlette.exceptions", extra="serve", purpose="robustad serve")

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        service.ready = True
        try:
            yield
        finally:
            service.ready = False
            await asyncio.to_thread(service.close)

    app = fastapi.FastAPI(title="robustad", version=robustad.__version__, lifespan=lifespan)
    app.state.service = service

    def refused(_: Any, error: Refusal) -> Any:
        content = {"error": str(error)}
        return responses.JSONResponse(content, error.status, headers_of(error))

    def not_found(_: Any, error: Any) -> Any:
        return responses.JSONResponse({"error": error.detail}, error.status_code, error.headers)

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(http.HTTPException, not_found)
    app.add_middleware(Gate, limits=service.limits, metrics=service.metrics)
    _routes(app, service, fastapi.Request, responses.Response)
    return app


def _routes(app: Any, service: Service, request_class: Any, response_class: Any) -> None:
    async def live() -> dict[str, bool]:
        return {"live": True}

    async def ready() -> dict[str, bool]:
        if not service.ready:
            raise Refusal(503, "not ready")
        return {"ready": True}

    async def server() -> dict[str, Any]:
        extensions = protocol.EXTENSIONS
        return {"name": "robustad", "version": robustad.__version__, "extensions": extensions}

    async def model(name: str, version: str = VERSION) -> dict[str, Any]:
        return service.describe(name, version)

    async def model_ready(name: str, version: str = VERSION) -> dict[str, Any]:
        service.batcher(name, version)
        await ready()
        return {"name": name, "ready": True}

    async def infer(request: Any, name: str, version: str = VERSION) -> Any:
        batcher = service.batcher(name, version)
        body = await read_body(request, service.limits)
        length = request.headers.get(protocol.LENGTH)
        asked = await service.off(protocol.parse, body, length, service.limits)
        del body
        scores = await service.ask(name, batcher, *await service.off(service.images, asked))
        content, headers = await service.off(protocol.encode, asked, scores, name, VERSION)
        return response_class(content, headers=headers)

    async def score(request: Any, model: str | None = None, answer: str = "json") -> Any:
        if answer not in ("json", "overlay"):
            raise Refusal(400, f"answer: expected json or overlay, got {answer[:40]}")
        start = time.perf_counter()
        name = service.only() if model is None else model
        batcher = service.batcher(name)
        body = await read_body(request, service.limits)
        image = await service.off(decode_file, body, service.limits)
        del body
        scores = await service.ask(name, batcher, [image], False)
        if answer == "json":
            return {"model": name, **record_of(scores), "seconds": time.perf_counter() - start}
        content = await service.off(_drawn, image, scores)
        named = {f"X-Robustad-{k.title()}": str(v) for k, v in record_of(scores).items()}
        return response_class(content, media_type="image/png", headers=named)

    async def metrics() -> Any:
        return response_class(service.metrics.text(), media_type=service.metrics.content_type)

    # FastAPI reads annotations; these classes are known only where it is installed.
    for handler in (infer, score):
        handler.__annotations__["request"] = request_class
        handler.__annotations__["return"] = response_class
    score.__annotations__["return"] = Any
    for path, ask in (
        ("/v2/health/live", live),
        ("/v2/health/ready", ready),
        ("/v2", server),
        ("/metrics", metrics),
    ):
        app.add_api_route(path, ask, methods=["GET"], response_model=None)
    for version in ("", "/versions/{version}"):
        place = "/v2/models/{name}" + version
        app.add_api_route(place, model, methods=["GET"], response_model=None)
        app.add_api_route(place + "/ready", model_ready, methods=["GET"], response_model=None)
        app.add_api_route(place + "/infer", infer, methods=["POST"], response_model=None)
    app.add_api_route("/score", score, methods=["POST"], response_model=None)


class Service:
    """Models, what they count, and the way from a request to an answer.

    Parameters
    ----------
    models : mapping of str to OnnxDetector
        By name.
    limits : Limits
        What is taken.
    """

    def __init__(self, models: Mapping[str, OnnxDetector], limits: Limits) -> None:
        self.limits, self.metrics, self.ready = limits, Metrics(), False
        self._batchers: dict[str, Batcher] = {}
        for name, model in models.items():
            self._batchers[name] = Batcher(model, limits, partial(self.metrics.batch, name))
            self.metrics.follow(name, self._batchers[name])
        self._decoders = asyncio.Semaphore(DECODERS)

    def close(self) -> None:
        """Finish what waits."""
        for batcher in self._batchers.values():
            batcher.close()

    def batcher(self, name: str, version: str = VERSION) -> Batcher:
        """Where to ask for a model; 404 if there is none of this name and version."""
        if name not in self._batchers or version != VERSION:
            known = ", ".join(self._batchers)
            raise Refusal(404, f"expected a model of {known} in version {VERSION}")
        return self._batchers[name]

    def only(self) -> str:
        """Name of the only model."""
        if len(self._batchers) > 1:
            raise Refusal(400, f"model: expected one of {', '.join(self._batchers)}, got none")
        return next(iter(self._batchers))

    def describe(self, name: str, version: str) -> dict[str, Any]:
        """Model metadata of the protocol, and the file's own beside it."""
        return {
            "name": name,
            "versions": [VERSION],
            "platform": "onnxruntime_onnx",
            "inputs": protocol.tensors(self._inputs(name, version)),
            "outputs": protocol.tensors(protocol.OUTPUTS),
            "robustad": self.batcher(name, version).model.metadata,
        }

    def _inputs(self, name: str, version: str) -> dict[str, tuple[str, list[int]]]:
        """What requests may bring: prepared tensors only for files that take them."""
        whole = self.batcher(name, version).model.input_form != "float_nchw"
        return {k: v for k, v in protocol.INPUTS.items() if not (whole and k == "image")}

    async def off(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do something that takes a while without holding up other requests."""
        async with self._decoders:
            return await asyncio.to_thread(work, *arguments)

    def images(self, asked: protocol.InferRequest) -> tuple[Sequence[Pixels], bool]:
        """Images of a request, and whether they are prepared."""
        if isinstance(asked.tensor, list):
            return [decode_file(content, self.limits) for content in asked.tensor], False
        if asked.name == "image":
            return list(asked.tensor), True
        return list(asked.tensor), False

    async def ask(
        self, name: str, batcher: Batcher, images: Sequence[Pixels], prepared: bool
    ) -> Scores:
        """Have images scored, within the time there is."""
        waiting = asyncio.wrap_future(batcher.submit(images, prepared=prepared))
        try:
            async with asyncio.timeout(self.limits.seconds):
                scores = await waiting
        except TimeoutError as error:
            raise Refusal(504, f"no answer within {self.limits.seconds:g} seconds") from error
        except Exception as error:
            raise refusal_of(error) from error
        self.metrics.scored(name, scores)
        return scores


def record_of(scores: Scores) -> dict[str, Any]:
    """Of the first image: score, probability, entropy (None if not calibrated), verdict."""
    numbers = {n: float(getattr(scores, n)[0]) for n in ("score", "probability", "entropy")}
    record: dict[str, Any] = {n: v if np.isfinite(v) else None for n, v in numbers.items()}
    return {**record, "verdict": str(scores.verdict[0])}


def _drawn(image: FloatArray, scores: Scores) -> bytes:
    pil = require("PIL.Image", extra="cpu", purpose="overlays")
    buffer = io.BytesIO()
    pil.fromarray(overlay(image, scores.anomaly_map[0])).save(buffer, "PNG")
    return buffer.getvalue()
