"""The HTTP server below the page: how many may come, and how long they may take to ask."""

import asyncio

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADER_SECONDS = 10  # to send the head of a request
_CONNECTIONS = 128


class PromptProtocol(H11Protocol):
    """Ends connections on which no whole head of a request comes in time.

    Each of them takes one of the places that there are, so a few that never ask would keep
    everybody out.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Expects a request."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Goes on waiting, or not if the head is whole."""
        super().data_received(data)
        self._expect()

    def on_response_complete(self) -> None:
        """Waits again, if the beginning of another head came with the last request."""
        super().on_response_complete()
        if self.conn.trailing_data[0]:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._forget()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEADER_SECONDS, self._give_up)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


def server_for(app: ASGIApp) -> uvicorn.Server:
    """Makes the server of an application; ``run([socket])`` serves until it is interrupted."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=PromptProtocol,
            ws="none",
            log_level="error",  # what a stranger sends is nothing to tell the user
            access_log=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,
        )
    )
