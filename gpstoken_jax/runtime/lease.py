"""Leases on places in buckets: one process owns a place for a while, and says so there."""

import contextlib
import json
import os
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpstoken_jax.runtime import buckets
from gpstoken_jax.runtime.buckets import Object
from gpstoken_jax.runtime.storage import StorageError

LEASE_SECONDS = 120.0
FOLDER = ".lease"  # of all leases on a place


class LeaseError(StorageError):
    """A place in a bucket belongs to another process; the message names it."""


class InUseError(LeaseError):
    """It belongs to one that may let go of it."""


class Lease:
    """Ownership of a place in a bucket for a while, renewed until it is released.

    An object ``.lease/PROCESS/NUMBER`` is made only if there is none of that name; the highest
    number owns. It is written again to renew it; who finds it unrenewed makes the next number.
    """

    def __init__(self, url: str, process: int):
        """Takes the lease.

        Raises:
          LeaseError: if another process has it.
        """
        self._url, self._folder = url, f"{url}/{FOLDER}/{process:05d}"
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        about = {"owner": owner, "pid": os.getpid(), "machine": _machine()}
        self._content = json.dumps({**about, "seconds": LEASE_SECONDS}).encode()
        self._number, self._until = self._take()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LeaseError if the lease has run out, as when the bucket could not be reached."""
        if time.monotonic() > self._until:
            raise LeaseError(
                f"the lease on {self._url} has run out, so that another process may write there: "
                "start again, it goes on from what is there"
            )

    def release(self) -> None:
        """Gives the place free."""
        self._stop.set()
        if time.monotonic() < self._until:
            self._thread.join()
            self._until = 0.0
            with contextlib.suppress(OSError):  # it runs out by itself
                buckets.remove(self._path(self._number))

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:09d}"

    def _there(self) -> dict[int, Object]:
        found = buckets.list_objects(self._folder)
        return {int(name): one for name, one in found.items() if name.isdecimal()}

    def _take(self) -> tuple[int, float]:
        there, began = self._there(), time.monotonic()
        newest = max(there, default=0)
        if there:
            self._check_over(newest, there[newest])
        try:
            with buckets.speaking_of(self._url):
                path = self._path(newest + 1)
                buckets.file_system(path).pipe_file(path, self._content, mode="create")
        except FileExistsError as error:
            raise InUseError(
                f"another process has begun to write to {self._url} in this moment: wait for it, "
                "or give another place"
            ) from error
        for number in there:
            buckets.remove(self._path(number))
        return newest + 1, began + LEASE_SECONDS

    def _check_over(self, number: int, found: Object) -> None:
        """Raises LeaseError if a lease still holds."""
        path = self._path(number)
        try:
            with buckets.speaking_of(self._url):
                content = buckets.file_system(path).cat_file(path)
        except FileNotFoundError:
            return  # released in this moment
        try:
            about = json.loads(content)
            ends = found.written.timestamp() + about["seconds"]
            about = {name: about[name] for name in ("owner", "pid", "machine")}
        except (ValueError, KeyError, TypeError) as error:
            raise LeaseError(f"{path} is no lease that can be read: take it away") from error
        if ends > time.time() and not _is_dead(about):
            until = datetime.fromtimestamp(ends, UTC)
            raise InUseError(
                f"{self._url} is in use by {about['owner']}, whose lease ends at {until:%H:%M:%S} "
                "UTC unless it goes on: wait for it, or give another place"
            )

    def _keep(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 6):
            began = time.monotonic()
            if began > self._until:
                return
            with contextlib.suppress(OSError):  # tried again soon; it may run out
                if max(self._there(), default=0) != self._number:
                    self._until = 0.0
                    return
                with buckets.speaking_of(self._url):
                    path = self._path(self._number)
                    buckets.file_system(path).pipe_file(path, self._content)
                self._until = began + LEASE_SECONDS


def _machine() -> str:
    """This machine since it was booted, and what of its processes is visible; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _is_dead(about: dict[str, Any]) -> bool:
    """Tells whether a lease's owner was a process of this machine that is no more."""
    if not about["machine"] or about["machine"] != _machine():
        return False
    return not Path("/proc", str(about["pid"])).exists()
