"""The viewer's server in a thread."""

import socket
import threading
import time

from gpstoken_jax.programs.view import listen
from gpstoken_jax.viewer.serving import server_for


class Server:
    """A running server; ``address`` is its page's."""

    def __init__(self, app):
        self.listener: socket.socket = listen("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._server = server_for(app)
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
