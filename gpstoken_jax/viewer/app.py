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

Arrays travel as safetensors (see ``wire``). The page's files are in memory before the first
request, photos of the shelf are asked for by number: no part of a request becomes a path.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from importlib import resources

import numpy as np
from absl import logging
from cachetools import LRUCache
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpstoken_jax.viewer.access import Access, Guard
from gpstoken_jax.viewer.decoder import MOST_DECODED
from gpstoken_jax.viewer.engine import Encoded, Engine
from gpstoken_jax.viewer.photos import MAX_BYTES, Photo, read_photo
from gpstoken_jax.viewer.requests import (
    check_layout,
    check_tokens,
    read_arrays,
    read_body,
    read_focus,
    read_grid,
    read_guidance,
    read_number,
)
from gpstoken_jax.viewer.shelf import Item
from gpstoken_jax.viewer.sizes import MAX_TOKENS
from gpstoken_jax.viewer.token_file import token_file
from gpstoken_jax.viewer.wire import MEDIA_TYPE, pack
from gpstoken_jax.viewer.work import Busy, Gone, Line

_PHOTO_BYTES = 64 << 20  # of pictures kept
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
        self._drawing = asyncio.Lock()
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
        """Tells what the page must know of the model."""
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
        """Tells how many shapes are compiled."""
        ready, of = self._engine.warmth.progress()
        return JSONResponse({"ready": ready, "of": of})

    async def thumbnail(self, request: Request) -> Response:
        """Shows a photo of the shelf in small."""
        number = self._shelf_number(request)
        async with self._drawing:  # one at a time, beside the computations
            if number not in self._thumbnails:
                thumbnail = await run_in_threadpool(self._shelf[number].thumbnail)
                self._thumbnails[number] = thumbnail
        return Response(self._thumbnails[number], media_type="image/jpeg")

    def _shelf_number(self, request: Request) -> int:
        number = request.path_params["number"]
        if number >= len(self._shelf):
            raise HTTPException(404, f"there is no photo {number}")
        return number

    # ---- Photos ---------------------------------------------------------------------------------

    async def shelf_photo(self, request: Request) -> Response:
        """Takes a photo of the shelf."""
        item = self._shelf[self._shelf_number(request)]
        return await self._take(request, item.path.read_bytes)

    async def photo(self, request: Request) -> Response:
        """Takes an image file."""
        if self._uploads.locked():  # so that memory is bounded, however many send
            raise Busy
        async with self._uploads:
            data = await read_body(request, MAX_BYTES)
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
        """Encodes a photo that is kept."""
        photo, wanted = self._photo(request), read_number(request, "tokens", 1, MAX_TOKENS)
        focus = await read_focus(request)

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
        """Decodes tokens."""
        tokens, tile, grid, _ = await self._read_tokens(request)
        return await self._line.run(
            request, lambda: _answer({"picture": self._engine.decode(tokens, tile, grid)})
        )

    async def tokens(self, request: Request) -> Response:
        """Makes a file of tokens."""
        tokens, tile, grid, layout = await self._read_tokens(request)
        if layout is None or len(layout) != len(tokens):
            raise ValueError("a layout of as many Gaussians as tokens is needed")
        name = request.query_params.get("name", "image")[:200]
        file = partial(token_file, self._engine, self._name, name, tokens, layout, tile, grid)
        return await self._line.run(request, lambda: Response(file(), media_type=MEDIA_TYPE))

    async def _read_tokens(self, request: Request) -> tuple:
        grid, arrays = read_grid(request, self._engine.sizes), await read_arrays(request)
        width = 5 + self._engine.tokenizer.config.model.feature_channels
        return (*check_tokens(arrays, grid, width), grid, check_layout(arrays))

    # ---- New pictures ---------------------------------------------------------------------------

    async def layout(self, request: Request) -> Response:
        """Tells where the generator's tokens would start in a photo."""
        photo = self._photo(request)
        self._check_generator()
        return await self._line.run(
            request, lambda: _answer({"layout": self._engine.layout(photo)})
        )

    async def generate(self, request: Request) -> Response:
        """Draws a new picture."""
        self._check_generator()
        label = read_number(request, "class", 0, 99_999)
        seed, guidance = read_number(request, "seed", 0, 999_999), read_guidance(request)
        layout = check_layout(await read_arrays(request))
        return await self._line.run(
            request, lambda: self._picture(self._engine.generate(label, seed, guidance, layout))
        )

    def _check_generator(self) -> None:
        if self._engine.generator is None:
            raise HTTPException(404, "there is no generator here: start with --generator=RUN")

    # ---- Compiling ------------------------------------------------------------------------------

    def start_warming(self) -> None:
        """Compiles in the background what is not compiled, unless that goes on already."""
        if self._stop.is_set() or (self._warming and self._warming.is_alive()):
            return
        self._warming = threading.Thread(target=self._warm_up, name="warm-up")
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
