"""The viewer's server: a page, and answers of the tokenizer. It keeps nothing but a bounded cache.

    GET  /api/model                 what the page must know of the model
    GET  /api/warmth                how many shapes are compiled
    GET  /api/shelf/N, /api/shelf/N/thumbnail
    POST /api/photo                 an image file -> its pictures
    POST /api/encode?photo=&tokens= a painted map, or nothing -> tokens and their picture
    POST /api/decode?rows=&cols=    tokens -> their picture
    POST /api/tokens?rows=&cols=    tokens -> a file for ``gpstoken decode``
    POST /api/layout?photo=         where the generator's tokens would start in a photo
    POST /api/generate?class=&seed=&guidance=  a layout, or nothing -> tokens and their picture

Arrays travel as safetensors (see ``wire``). Every file that can be asked for is in memory before
the first request; no part of a request becomes a path.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import resources

import numpy as np
from absl import logging
from cachetools import LRUCache
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpstoken_jax.viewer.access import Access, Guard
from gpstoken_jax.viewer.engine import MOST_DECODED, Encoded, Engine
from gpstoken_jax.viewer.photos import MAX_BYTES, Photo, read_photo
from gpstoken_jax.viewer.shelf import Item
from gpstoken_jax.viewer.sizes import MAX_TOKENS
from gpstoken_jax.viewer.token_file import token_file
from gpstoken_jax.viewer.wire import MEDIA_TYPE, pack, unpack
from gpstoken_jax.viewer.work import Busy, Gone, Line

_PHOTO_BYTES = 64 << 20  # of pictures kept
_MESSAGE_BYTES = 8 << 20
_BODY_SECONDS = 60  # to send a body
_MAX_SIDE_OF_FOCUS = 512
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}


class Viewer:
    """The handlers of all requests.

    Args:
      engine: what computes.
      shelf: photos that can be asked for by number.
      name: of the checkpoint, as the user gave it.
      num_tokens: of photos when they are opened; the page's choice if None.
    """

    def __init__(self, engine: Engine, shelf: Sequence[Item], name: str, num_tokens: int | None):
        self._engine, self._shelf, self._name = engine, shelf, name
        self._num_tokens = num_tokens
        self._line = Line()
        self._uploads = asyncio.Semaphore(4)
        self._photos: LRUCache = LRUCache(_PHOTO_BYTES, getsizeof=lambda photo: photo.nbytes)
        self._thumbnails: dict[int, bytes] = {}
        self._warming: threading.Thread | None = None
        self._stop = threading.Event()

    def routes(self) -> list[Route]:
        """All that can be asked for."""
        pages = [
            Route("/" if name == "index.html" else f"/static/{name}", _static(name, content))
            for name, content in _static_files().items()
        ]
        return [
            *pages,
            Route("/api/model", self.model),
            Route("/api/warmth", self.warmth),
            Route("/api/shelf/{number:int}", self.shelf_photo),
            Route("/api/shelf/{number:int}/thumbnail", self.thumbnail),
            Route("/api/photo", self.photo, methods=["POST"]),
            Route("/api/encode", self.encode, methods=["POST"]),
            Route("/api/decode", self.decode, methods=["POST"]),
            Route("/api/tokens", self.tokens, methods=["POST"]),
            Route("/api/layout", self.layout, methods=["POST"]),
            Route("/api/generate", self.generate, methods=["POST"]),
        ]

    # ---- What there is --------------------------------------------------------------------------

    async def model(self, request: Request) -> Response:
        config = self._engine.tokenizer.config
        return JSONResponse(
            {
                "checkpoint": self._name,
                "step": self._engine.tokenizer.step,
                "tile": config.model.image_size,
                "support": config.model.support,
                "features": config.model.feature_channels,
                "most_in_tile": self._engine.sizes.stops[-1] * MOST_DECODED,
                "max_bytes": MAX_BYTES,
                "num_tokens": self._num_tokens,
                "generator": self._about_generator(),
                "shelf": [{"name": item.name, "given": item.given} for item in self._shelf],
            }
        )

    def _about_generator(self) -> dict | None:
        generator = self._engine.generator
        return generator and {
            "classes": list(generator.label_names) or ["anything"],
            "guided": generator.has_classes,
            "guidance": generator.guidance().scale,
            "layouts": generator.layouts is not None,
            "tokens": generator.model.num_tokens,
        }

    async def warmth(self, request: Request) -> Response:
        ready, of = self._engine.warmth.progress()
        return JSONResponse({"ready": ready, "of": of})

    async def thumbnail(self, request: Request) -> Response:
        number = self._shelf_number(request)
        if number not in self._thumbnails:
            item = self._shelf[number]
            self._thumbnails[number] = await self._line.run(request, item.thumbnail)
        return Response(self._thumbnails[number], media_type="image/jpeg")

    def _shelf_number(self, request: Request) -> int:
        number = request.path_params["number"]
        if number >= len(self._shelf):
            raise HTTPException(404, f"there is no photo {number}")
        return number

    # ---- Photos ---------------------------------------------------------------------------------

    async def shelf_photo(self, request: Request) -> Response:
        item = self._shelf[self._shelf_number(request)]
        return await self._take(request, item.path.read_bytes)

    async def photo(self, request: Request) -> Response:
        async with self._uploads:  # so that memory is bounded, however many send
            data = await _body(request, MAX_BYTES)
            return await self._take(request, lambda: data)

    async def _take(self, request: Request, read: Callable[[], bytes]) -> Response:
        photo = await self._line.run(request, lambda: read_photo(read(), self._engine.sizes))
        self._photos[photo.key] = photo
        self._engine.expect(photo.ladder)
        self.start_warming()
        low, high = self._engine.sizes.range(photo.ladder)
        words = {"key": photo.key, "min_tokens": str(low), "max_tokens": str(high)}
        return _answer({"picture": photo.pictures[photo.ladder[-1]]}, words)

    def _photo(self, request: Request) -> Photo:
        key = request.query_params.get("photo", "")
        if key not in self._photos:
            raise HTTPException(404, "the photo is not kept here any more: send it again")
        return self._photos[key]

    # ---- Tokens ---------------------------------------------------------------------------------

    async def encode(self, request: Request) -> Response:
        photo, wanted = self._photo(request), _number(request, "tokens", 1, MAX_TOKENS)
        focus = _focus(await _body(request, _MESSAGE_BYTES))

        return await self._line.run(
            request, lambda: self._picture(self._engine.encode(photo, wanted, focus))
        )

    def _picture(self, made: Encoded) -> Response:
        arrays = {
            "tokens": made.tokens,
            "layout": made.layout,
            "tile": made.tile.astype(np.uint16),
            "picture": self._engine.decode(made.tokens, made.tile, made.grid),
        }
        return _answer(arrays, {"rows": str(made.grid[0]), "cols": str(made.grid[1])})

    async def decode(self, request: Request) -> Response:
        grid, arrays = self._grid(request), unpack(await _body(request, _MESSAGE_BYTES))
        tokens, tile = self._tokens(arrays, grid)
        return await self._line.run(
            request, lambda: _answer({"picture": self._engine.decode(tokens, tile, grid)})
        )

    async def tokens(self, request: Request) -> Response:
        grid, arrays = self._grid(request), unpack(await _body(request, _MESSAGE_BYTES))
        tokens, tile = self._tokens(arrays, grid)
        layout = arrays.get("layout")
        if layout is None or layout.shape != (len(tokens), 5) or layout.dtype != np.float32:
            raise ValueError("layout must be [L, 5] in float32")
        name = request.query_params.get("name", "image")[:200]
        return await self._line.run(
            request,
            lambda: Response(
                token_file(self._engine, self._name, name, tokens, layout, tile, grid),
                media_type=MEDIA_TYPE,
            ),
        )

    # ---- New pictures ---------------------------------------------------------------------------

    async def layout(self, request: Request) -> Response:
        photo = self._photo(request)
        self._check_generator()
        return await self._line.run(
            request, lambda: _answer({"layout": self._engine.layout(photo)})
        )

    async def generate(self, request: Request) -> Response:
        self._check_generator()
        label, seed = _number(request, "class", 0, 99_999), _number(request, "seed", 0, 999_999)
        guidance = _guidance(request.query_params.get("guidance", "1"))
        body = await _body(request, _MESSAGE_BYTES)
        layout = unpack(body).get("layout") if body else None
        if layout is not None and (
            layout.dtype != np.float32 or layout.ndim != 2 or not np.isfinite(layout).all()
        ):
            raise ValueError("layout must be [L, 5] in float32, finite")
        return await self._line.run(
            request,
            lambda: self._picture(self._engine.generate(label, seed, guidance, layout)),
        )

    def _check_generator(self) -> None:
        if self._engine.generator is None:
            raise HTTPException(404, "there is no generator here: start with --generator=RUN")

    # ---- What a request says --------------------------------------------------------------------

    def _grid(self, request: Request) -> tuple[int, int]:
        grid = tuple(_number(request, name, 1, 64) for name in ("rows", "cols"))
        if not self._engine.sizes.has(grid):
            raise ValueError(f"there are no pictures of {grid[0]} x {grid[1]} tiles here")
        return grid

    def _tokens(self, arrays: dict, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        tokens, tile = arrays.get("tokens"), arrays.get("tile")
        width = 5 + self._engine.tokenizer.config.model.feature_channels
        if tokens is None or tile is None or tokens.dtype != np.float32 or tokens.ndim != 2:
            raise ValueError("a message of tokens has tokens in float32 and their tiles")
        if tokens.shape[1] != width or tile.shape != tokens.shape[:1] or tile.dtype != np.uint16:
            raise ValueError(f"tokens are [L, {width}], tiles [L] in uint16")
        if len(tile) and tile.max() >= grid[0] * grid[1]:
            raise ValueError(f"there is no tile {tile.max()}")
        if not np.isfinite(tokens).all():
            raise ValueError("there are tokens with values that are not finite")
        return tokens, tile

    # ---- Compiling ------------------------------------------------------------------------------

    def start_warming(self) -> None:
        """Compiles in the background what is not compiled, unless that goes on already."""
        if self._stop.is_set() or (self._warming and self._warming.is_alive()):
            return
        self._warming = threading.Thread(target=self._warm_up, name="warm-up", daemon=True)
        self._warming.start()

    def _warm_up(self) -> None:
        try:
            self._engine.warm_up(self._stop)
        except Exception:  # what is not compiled beforehand is compiled when it is asked for
            logging.exception("warming up stopped")

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Warms up while the server runs."""
        self.start_warming()
        yield
        self._stop.set()


def create_app(
    engine: Engine,
    shelf: Sequence[Item] = (),
    *,
    name: str = "",
    access: Access | None = None,
    num_tokens: int | None = None,
) -> Starlette:
    """Makes the ASGI application.

    Args:
      engine: what computes.
      shelf: photos that can be opened without a file.
      name: of the checkpoint.
      access: who may talk to it; this machine if None.
      num_tokens: of photos when they are opened; the page's choice if None.
    """
    viewer = Viewer(engine, shelf, name, num_tokens)
    return Starlette(
        routes=viewer.routes(),
        lifespan=viewer.lifespan,
        middleware=[Middleware(Guard, access=access or Access())],
        exception_handlers={
            HTTPException: lambda request, error: _error(error.status_code, error.detail),
            ValueError: lambda request, error: _error(400, str(error)),
            Busy: lambda request, error: _error(
                503, "busy: try again in a moment", retry_after="1"
            ),
            Gone: lambda request, error: Response(status_code=499),
            ClientDisconnect: lambda request, error: Response(status_code=499),
            Exception: _failure,
        },
    )


# ---- Requests and answers -----------------------------------------------------------------------


async def _body(request: Request, limit: int) -> bytes:
    """What a request carries, if it is not too much and does not take too long."""
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


def _number(request: Request, name: str, low: int, high: int) -> int:
    text = request.query_params.get(name, "")
    if not (text.isdecimal() and len(text) < 6 and low <= int(text) <= high):
        raise ValueError(f"{name} must be a number from {low} to {high}, not {text[:20]!r}")
    return int(text)


def _guidance(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 1 <= (value := float(text)) <= 20:
            return value
    raise ValueError(f"guidance must be a number from 1 to 20, not {text[:20]!r}")


def _focus(data: bytes) -> np.ndarray | None:
    focus = unpack(data).get("focus") if data else None
    if focus is None:
        return None
    if focus.dtype != np.int8 or focus.ndim != 2 or not 0 < max(focus.shape) <= _MAX_SIDE_OF_FOCUS:
        raise ValueError(f"focus is a map of int8, at most {_MAX_SIDE_OF_FOCUS} a side")
    return focus


def _answer(arrays: dict[str, np.ndarray], words: dict[str, str] | None = None) -> Response:
    return Response(pack(arrays, words), media_type=MEDIA_TYPE)


def _error(status: int, message: str, **headers: str) -> Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"error": " ".join(message.split())}, status, headers=headers)


def _failure(request: Request, error: Exception) -> Response:
    return _error(500, "the server failed at this; it goes on")


def _static_files() -> dict[str, bytes]:
    folder = resources.files("gpstoken_jax.viewer") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def _static(name: str, content: bytes) -> Callable[[Request], Response]:
    media_type = _TYPES["." + name.rpartition(".")[2]]

    async def serve(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return serve
