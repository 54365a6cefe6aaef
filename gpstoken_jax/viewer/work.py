"""One computation at a time, and a line before it that does not grow without end."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

Result = TypeVar("Result")


class Busy(Exception):
    """There are as many requests as can wait."""


class Gone(Exception):
    """Nobody waits for the answer any more."""


class Line:
    """The requests that wait for the processor.

    Args:
      places: how many may wait, with the one that is served.
    """

    def __init__(self, places: int = 16):
        self._free = places
        self._turn = asyncio.Lock()

    async def run(self, request: Request, function: Callable[[], Result]) -> Result:
        """Runs a function in a thread when it is its turn.

        Raises:
          Busy: at once, if there is no place.
          Gone: if who asked has gone meanwhile: stale questions cost nothing.
        """
        if not self._free:
            raise Busy
        self._free -= 1
        try:
            async with self._turn:
                if await request.is_disconnected():
                    raise Gone
                return await run_in_threadpool(function)
        finally:
            self._free += 1
