"""The words of requests, each checked before anything is computed."""

import asyncio
import contextlib

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gpstoken_jax.viewer.sizes import Grid, Sizes
from gpstoken_jax.viewer.wire import unpack

MESSAGE_BYTES = 2 << 20  # of tokens and painted maps
_BODY_SECONDS = 60  # to send a body
_MAX_FOCUS_SIDE = 512


async def read_body(request: Request, limit: int) -> bytes:
    """Reads the body of a request.

    Raises:
      HTTPException: if it is more than ``limit`` bytes, or does not come in a minute.
    """
    too_much = HTTPException(413, f"at most {limit / 2**20:.0f} MB can be sent")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        raise too_much
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_much
                parts.append(part)
    except TimeoutError:
        raise HTTPException(408, f"nothing whole came in {_BODY_SECONDS} seconds") from None
    return b"".join(parts)


def read_number(request: Request, name: str, low: int, high: int) -> int:
    """Reads a whole number of the address."""
    text = request.query_params.get(name, "")
    if not (text.isdecimal() and len(text) < 6 and low <= int(text) <= high):
        raise ValueError(f"{name} must be a number from {low} to {high}, not {text[:20]!r}")
    return int(text)


def read_guidance(request: Request) -> float:
    """Reads the scale of guidance of the address."""
    text = request.query_params.get("guidance", "1")
    with contextlib.suppress(ValueError):
        if 1 <= (value := float(text)) <= 20:
            return value
    raise ValueError(f"guidance must be a number from 1 to 20, not {text[:20]!r}")


async def read_focus(request: Request) -> np.ndarray | None:
    """Reads a painted map, int8 [g, v]; None if there is none."""
    focus = (await read_arrays(request)).get("focus")
    if focus is None:
        return None
    if focus.dtype != np.int8 or focus.ndim != 2 or not min(focus.shape) > 0:
        raise ValueError("focus is a map of int8")
    if max(focus.shape) > _MAX_FOCUS_SIDE:
        raise ValueError(f"focus is a map of at most {_MAX_FOCUS_SIDE} a side")
    return focus


async def read_arrays(request: Request) -> dict[str, np.ndarray]:
    """Reads the arrays of a body; nothing if it is empty."""
    data = await read_body(request, MESSAGE_BYTES)
    return unpack(data) if data else {}


def read_grid(request: Request, sizes: Sizes) -> Grid:
    """Reads the grid of a request's tokens, one that some photo has."""
    grid = read_number(request, "rows", 1, 64), read_number(request, "cols", 1, 64)
    if not sizes.has(grid):
        raise ValueError(f"there are no pictures of {grid[0]} x {grid[1]} tiles here")
    return grid


def check_tokens(
    arrays: dict[str, np.ndarray], grid: Grid, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds tokens [L, width] and the number of each one's tile [L]."""
    tokens, tile = arrays.get("tokens"), arrays.get("tile")
    if tokens is None or tile is None or tokens.dtype != np.float32 or tile.dtype != np.uint16:
        raise ValueError("tokens are sent in float32, with their tiles in uint16")
    if tokens.ndim != 2 or tokens.shape[1] != width or tile.shape != tokens.shape[:1]:
        raise ValueError(f"tokens of this model are [L, {width}], with a tile each")
    if len(tile) and tile.max() >= grid[0] * grid[1]:
        raise ValueError(f"there is no tile {tile.max()}")
    if not np.isfinite(tokens).all():
        raise ValueError("there are tokens with values that are not finite")
    return tokens, tile


def check_layout(arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    """Finds initial Gaussians [L, 5]; None if there are none."""
    layout = arrays.get("layout")
    if layout is None:
        return None
    if layout.dtype != np.float32 or layout.ndim != 2 or layout.shape[1] != 5:
        raise ValueError("a layout is [L, 5] in float32")
    if not np.isfinite(layout).all():
        raise ValueError("there are Gaussians with values that are not finite")
    return layout
