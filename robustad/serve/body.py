"""Reading what a client sends, within bounds of size and time."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

from robustad._imports import require
from robustad.errors import InputError
from robustad.images import read_image
from robustad.serve.batcher import FloatArray
from robustad.serve.limits import Limits, Refusal
from robustad.serve.protocol import check_size

if TYPE_CHECKING:
    from starlette.requests import Request

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# A client that is still sending reads no answer: what is too long is read and thrown away, to a
# point.
DRAIN_SECONDS, DRAIN_FACTOR = 2.0, 4


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read a whole body.

    Raises
    ------
    Refusal
        413 if it is longer than allowed, 408 if it takes too long to arrive.
    """
    announced = request.headers.get("content-length", "")
    too_long = announced.isdecimal() and int(announced[:20]) > limits.body_bytes
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(limits.body_seconds):
            if not too_long:
                size = 0
                async for part in request.stream():
                    size += len(part)
                    if size > limits.body_bytes:
                        too_long = True
                        break
                    parts.append(part)
    except TimeoutError as error:
        raise Refusal(
            408, f"expected the request's body within {limits.body_seconds:g} seconds"
        ) from error
    if too_long:
        parts.clear()
        await drain(request, limits)
        raise Refusal(413, f"expected at most {limits.body_bytes} bytes, got more")
    return b"".join(parts)


async def drain(request: Request, limits: Limits) -> None:
    """Read on for a while and forget it."""
    from starlette.requests import ClientDisconnect

    size = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > DRAIN_FACTOR * limits.body_bytes:
                    return
    # RuntimeError: the stream has been read to its end
    except (TimeoutError, RuntimeError, ClientDisconnect):
        return


def decode_file(content: bytes, limits: Limits) -> FloatArray:
    """Decode the bytes of an image file.

    Returns
    -------
    array, (H, W, 3), float32 in [0, 1]
        RGB.

    Raises
    ------
    Refusal
        400 if it is none, 413 if it has too many pixels; that is known before it is decoded.
    """
    pil = require("PIL.Image", extra="cpu", purpose="reading image files")
    try:
        with pil.open(io.BytesIO(content), formats=FORMATS) as image:
            check_size(1, image.width * image.height, limits)
            return read_image(image)
    except Refusal:
        raise
    except InputError as error:
        raise Refusal(400, str(error)) from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, ...
        kinds = ", ".join(FORMATS)
        raise Refusal(400, f"expected the bytes of an image file ({kinds})") from error
