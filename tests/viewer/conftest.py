"""A server in a thread, on random weights of a small model."""

import dataclasses
import socket
import threading
import time

import pytest
import uvicorn

from gpstoken_jax import Tokenizer
from gpstoken_jax.programs.view import listen
from gpstoken_jax.viewer import Engine, create_app
from gpstoken_jax.viewer.sizes import Sizes


@pytest.fixture(scope="session")
def engine(random_run):
    """Few sizes, as each is compiled: square photos of 1 and 2 x 2 tiles."""
    tokenizer = Tokenizer.from_pretrained(random_run)
    sizes = dataclasses.replace(
        Sizes.of(tokenizer.config), stops=(4, 8, 16), shapes=((1, 1),), finer=(1, 2)
    )
    return Engine(tokenizer, sizes=sizes)


class Server:
    """A running server; ``address`` is its page's."""

    def __init__(self, app):
        self.listener: socket.socket = listen("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self.listener],))

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(20)
        self.listener.close()


@pytest.fixture(scope="session")
def server(engine, random_run):
    with Server(create_app(engine, name=str(random_run))) as running:
        yield running
