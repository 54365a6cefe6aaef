"""Buckets on this machine: emulators of S3 and of Google Cloud Storage."""

import contextlib
import json
import logging
import os
import urllib.request
from collections.abc import Iterator
from typing import Any

import fsspec

from gpstoken_jax.runtime.buckets import file_system

BUCKET = "bucket"


@contextlib.contextmanager
def s3() -> Iterator[dict[str, str]]:
    """Runs an emulator with one empty bucket; yields what clients need in their environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    reset = f"http://{host}:{port}/moto-api/reset"  # buckets outlive the server
    urllib.request.urlopen(urllib.request.Request(reset, method="POST")).close()
    server.stop()


@contextlib.contextmanager
def gs() -> Iterator[dict[str, str]]:
    """The same of Google Cloud Storage; it knows no preconditions, so it has no leases to test."""
    from gcp_storage_emulator import server as emulator

    # Its reader of parts takes a content's last \r for half of the line end that follows.
    read = emulator._read_data
    emulator._read_data = lambda handler, query: _exact(handler) or read(handler, query)
    server = emulator.create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    host, port = server._api._httpd.socket.getsockname()
    yield {
        "STORAGE_EMULATOR_HOST": f"http://{host}:{port}",
        "FSSPEC_GS_TOKEN": "anon",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # which asks a server for the bucket's kind
    }
    server.stop()
    emulator._read_data = read


def _exact(handler: Any) -> dict[str, Any] | None:
    """The parts of an upload; None for any other request."""
    kind = handler.headers.get("Content-Type") or ""
    if not kind.startswith("multipart/related"):
        return None
    boundary = b"--" + kind.partition("boundary=")[2].strip('"').encode()
    body = handler.rfile.read(int(handler.headers["Content-Length"]))
    about, _, rest = body.removeprefix(boundary).partition(b"\n" + boundary)
    head, _, content = rest.partition(b"\n\n")
    return {
        "meta": json.loads(about.partition(b"\n\n")[2]),
        "content": content.removesuffix(b"\n" + boundary + b"--"),
        "content-type": head.partition(b": ")[2].decode().strip(),
    }


@contextlib.contextmanager
def bucket(scheme: str) -> Iterator[str]:
    """Runs an emulator for this process and those that it starts; yields the bucket's place."""
    with {"s3": s3, "gs": gs}[scheme]() as environment:
        os.environ.update(environment)
        fsspec.config.set_conf_env(fsspec.config.conf)
        fsspec.get_filesystem_class(scheme).clear_instance_cache()
        fsspec.filesystem(scheme).mkdir(BUCKET)
        yield f"{scheme}://{BUCKET}"
        fsspec.get_filesystem_class(scheme).clear_instance_cache()
        for name in environment:
            del os.environ[name]


def contents(url: str) -> dict[str, bytes]:
    """All objects below a place by relative name."""
    files = file_system(url)
    start = len(url.partition("://")[2]) + 1
    return {name[start:]: files.cat_file(name) for name in files.find(url)}
