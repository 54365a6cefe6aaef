"""Opens photos in a browser, as tokens that one can take hold of.

    gpstoken view [IMAGE ...] [--checkpoint=photos-small]

Runs a small server on this machine and opens its page; Ctrl+C ends it. See docs/viewer.md.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
import webbrowser
from pathlib import Path

from absl import flags

from gpstoken_jax.programs import cli

if not cli.asks_for_help():  # which needs no JAX
    from gpstoken_jax.generator import Generator
    from gpstoken_jax.tokenizer import Tokenizer
    from gpstoken_jax.viewer import Access, Engine, create_app
    from gpstoken_jax.viewer.serving import server_for
    from gpstoken_jax.viewer.shelf import fill_shelf

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "photos-small", "A run's directory, a folder of weights, or weights that ship."
)
GENERATOR = flags.DEFINE_string("generator", None, "A run of stage 2, to make new pictures.")
LAYOUTS = flags.DEFINE_string("layouts", None, "For --generator: a run of stage 1, or layouts.")
cli.allow_buckets("checkpoint", "generator", "layouts")
PORT = flags.DEFINE_integer(
    "port", 8470, "Where it listens; 0 is any that is free.", lower_bound=0, upper_bound=65535
)
HOST = flags.DEFINE_string(
    "host",
    None,
    "Address to listen on for other machines, e.g. 0.0.0.0: then the page's address has a token, "
    "and whoever has that may use it. Unencrypted. This machine only by default.",
)
BROWSER = flags.DEFINE_bool("browser", True, "Open the page.")
NUM_TOKENS = flags.DEFINE_integer("num_tokens", None, "At first; 256 by default.", lower_bound=1)


def main(images: list[str]) -> None:
    """Serves the page until it is interrupted."""
    listener = listen(HOST.value or "127.0.0.1", PORT.value)
    shelf = fill_shelf([Path(image).expanduser() for image in images])
    tokenizer = Tokenizer.from_pretrained(CHECKPOINT.value)
    generator = None
    if GENERATOR.value:
        generator = Generator.from_pretrained(GENERATOR.value, layouts=LAYOUTS.value)
    access = Access(HOST.value or "127.0.0.1", secrets.token_urlsafe(24) if HOST.value else None)
    app = create_app(
        Engine(tokenizer, generator),
        shelf,
        name=CHECKPOINT.value,
        access=access,
        num_tokens=NUM_TOKENS.value,
    )
    address = page_address(listener, access)
    print(f"{address}  (Ctrl+C ends it)", flush=True)
    if BROWSER.value:
        threading.Timer(0.5, webbrowser.open, [address]).start()
    with contextlib.suppress(KeyboardInterrupt):
        server_for(app).run([listener])
    # What is being compiled can be neither waited for, it may take a minute, nor left alone: it
    # crashes in a process that ends around it. There is nothing to put in order.
    sys.stdout.flush()
    os._exit(0)


def listen(host: str, port: int) -> socket.socket:
    """Opens the port, before anything that takes time.

    Raises:
      OSError: if it cannot be had; says what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise OSError(f"cannot listen on {host} port {port} ({reason}): try --port=0") from error
    listener.listen(128)
    return listener


def page_address(listener: socket.socket, access: Access) -> str:
    """The address to open."""
    host, port = listener.getsockname()[:2]
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={access.token}" if access.token else "")


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
