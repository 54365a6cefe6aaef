"""A meeting of all processes of a run before JAX joins them.

JAX aborts, with a stack trace of C++, where a process is missing or a port is taken. Here it is
said who is missing, while there is still time to start it. Process 0 listens where JAX will.
"""

import contextlib
import json
import socket
import sys
import time

REMIND_SECONDS = 60.0
GIVE_UP_SECONDS = 300.0
_GO = "go"
_REPLY_SECONDS = 5.0


class RendezvousError(RuntimeError):
    """The processes did not come together; the message says who is missing or what differs."""


def meet(coordinator: str, num_processes: int, process_id: int) -> None:
    """Returns once all processes have called this.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      ValueError: if ``coordinator`` is not HOST:PORT.
      RendezvousError: if the port is taken, two processes do not agree, or someone does not come.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"--coordinator={coordinator} is not HOST:PORT")
    if process_id == 0:
        _receive(coordinator, int(port), num_processes)
    else:
        _report(coordinator, (host.strip("[]"), int(port)), num_processes, process_id)


class _Clock:
    """Reminds every minute, and says when it is time to give up."""

    def __init__(self):
        self._end = time.monotonic() + GIVE_UP_SECONDS
        self._next = time.monotonic() + REMIND_SECONDS

    def check(self, missing: str) -> None:
        now = time.monotonic()
        if now > self._end:
            raise RendezvousError(f"{missing} did not come in {GIVE_UP_SECONDS:.0f} s: start all")
        if now > self._next:
            self._next += REMIND_SECONDS
            print(f"still waiting for {missing}", file=sys.stderr, flush=True)


def _receive(coordinator: str, port: int, count: int) -> None:
    """Waits, as process 0, for all the others, then lets all go on."""
    try:
        listener = socket.create_server(("", port), reuse_port=False)
    except OSError as error:
        raise RendezvousError(
            f"cannot listen on port {port} of --coordinator={coordinator}: {error.strerror}; if "
            "another run uses it, give another port"
        ) from error
    clock, present = _Clock(), {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        listener.settimeout(min(1.0, REMIND_SECONDS))
        while missing := [i for i in range(1, count) if i not in present] or _lost(present):
            clock.check(f"process {', '.join(map(str, missing))}")
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            stack.enter_context(connection)
            connection.settimeout(_REPLY_SECONDS)
            said = _read(connection)
            if said is None:  # someone else
                continue
            number, believes = said
            if believes != count or not 0 < number < count:
                problem = (
                    f"process {number} of {believes} came to a run of {count} processes: start "
                    "all with the same --num_processes and each with its own --process_id"
                )
                _write(connection, problem)
                raise RendezvousError(problem)
            if number in present and _is_open(present[number]):
                _write(connection, f"process {number} is here already: start each number once")
                continue
            present[number] = connection  # perhaps started again
        for connection in present.values():
            _write(connection, _GO)
            with contextlib.suppress(OSError):
                connection.recv(1)  # the other side closes first, so that the port is free at once


def _report(coordinator: str, address: tuple[str, int], count: int, number: int) -> None:
    """Goes to process 0, again and again until it is there, and waits for its word."""
    clock = _Clock()
    while True:
        reply = ""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(address, timeout=_REPLY_SECONDS) as connection,
        ):
            _write(connection, json.dumps({"process": number, "of": count}))
            connection.settimeout(min(1.0, REMIND_SECONDS))
            while not reply.endswith("\n"):
                clock.check(f"other processes of the run, or process 0 at {coordinator}")
                try:
                    data = connection.recv(4096).decode(errors="replace")
                except TimeoutError:
                    continue
                if not data:
                    break
                reply += data
        if reply.strip() == _GO:
            return
        if reply.startswith("process "):
            raise RendezvousError(reply.strip())
        clock.check(f"process 0 at {coordinator}")
        time.sleep(0.2)


def _read(connection: socket.socket) -> tuple[int, int] | None:
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < 1000:
            part = connection.recv(1000)
            if not part:
                return None
            data += part
        value = json.loads(data)
        return int(value["process"]), int(value["of"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lost(present: dict[int, socket.socket]) -> list[int]:
    """Takes out those that came and are gone, killed perhaps; they may come again."""
    lost = [number for number, connection in present.items() if not _is_open(connection)]
    for number in lost:
        del present[number]
    return sorted(lost)


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(_REPLY_SECONDS)


def _write(connection: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(text.encode() + b"\n")
