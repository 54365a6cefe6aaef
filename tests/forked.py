"""Programs in processes of their own, forked from one that has imported the libraries.

    forked.Program([sys.executable, "train.py", ...], cwd=ROOT, env=env, stdout=PIPE)

``Program`` is ``subprocess.Popen``: the process has its own number, signals, pipes and exit code,
and ends as an interpreter ends. Only its imports, 2 to 4 s of processor time, were made before it
was. What tests imports or the start itself, or begins with another program, takes
``subprocess.Popen``; this is that, too, for what it cannot fork.
"""

import atexit
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import Popen  # itself, whatever tests put in its place
from typing import Any

ROOT = Path(__file__).parents[1]
# Libraries that programs import, and what of this package does; none defines flags of its own.
_LIBRARIES = (
    "gpstoken_jax.data", "gpstoken_jax.evaluation.run", "gpstoken_jax.generator",
    "gpstoken_jax.runtime.checkpoint", "gpstoken_jax.tokenizer", "gpstoken_jax.tokens",
    "gpstoken_jax.training", "gpstoken_jax.training.layout", "gpstoken_jax.training.sit",
    "gpstoken_jax.training.tokenizer", "ml_collections.config_flags",
)  # fmt: skip
# What libraries read when they are imported: another value is another process to fork from.
_AT_IMPORT = ("JAX_", "TF_", "GRPC_", "OMP_", "PYTHON", "LC_", "LANG", "LD_")
_PIPE_ENDS = slice(9, 15)  # of the arguments of ``_execute_child``, after ``args``
_PR_SET_CHILD_SUBREAPER = 36


class Program(Popen):
    """A Python program in a forked process; see ``subprocess.Popen``."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        executable, preexec_fn, _, pass_fds, cwd, env, *_, shell = rest[:9]
        special = executable or preexec_fn or pass_fds or shell or rest[-1] != -1 or rest[-2]
        python = args[0] == sys.executable and (args[1] in ("-m", "-c") or args[1][0] != "-")
        if special or not python or sys.platform != "linux":
            return super()._execute_child(args, *rest)
        env = dict(os.environ if env is None else env)
        at_import = {name: value for name, value in env.items() if name.startswith(_AT_IMPORT)}
        ends = rest[_PIPE_ENDS]
        fds = [own if fd == -1 else fd for own, fd in enumerate((ends[0], ends[3], ends[5]))]
        call = {"arguments": args[1:], "cwd": os.fspath(cwd or os.getcwd()), "env": env}
        self.pid = _parent(tuple(sorted(at_import.items()))).fork(call, fds)
        self._child_created = True
        for fd, ours in ((ends[0], ends[1]), (ends[3], ends[2]), (ends[5], ends[4])):
            if -1 not in (fd, ours):
                os.close(fd)
        if hasattr(self, "_devnull"):
            os.close(self._devnull)


def run(command: list[str], *, timeout: float = 900, **options: Any) -> subprocess.CompletedProcess:
    """``subprocess.run`` with both outputs as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Program(command, **pipes, **options) as process:
        try:
            said = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, *said)


class _Parent:
    """A process with the libraries, of which others are forked that become this one's children."""

    def __init__(self, at_import: tuple[tuple[str, str], ...]):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            env = {**os.environ, **dict(at_import)}
            self._process = Popen(command, env=env, pass_fds=[theirs.fileno()])
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()

    def fork(self, call: dict[str, Any], fds: list[int]) -> int:
        """Starts a program with these as its standard input, output and error; returns its pid."""
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(self._socket, [json.dumps(call).encode()], fds)
            pid = int(self._socket.recv(32))
        finally:
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises if no child of ours
        return pid


_parent = functools.cache(_Parent)


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Forks a program for each call; returns only in a program, with its call."""
    while True:
        message, fds, *_ = socket.recv_fds(connection, 2**20, 3)
        if not message:
            os._exit(0)  # the tests are over
        told, tells = os.pipe()
        if between := os.fork():
            os.waitpid(between, 0)  # now the tests' process has the orphan, and may be told
            connection.send(os.read(told, 32))
            for fd in (told, tells, *fds):
                os.close(fd)
        elif pid := os.fork():
            os.write(tells, str(pid).encode())
            os._exit(0)
        else:
            for own, fd in enumerate(fds):
                os.dup2(fd, own)
            os.closerange(3, max(told, tells, *fds, connection.fileno()) + 1)
            return json.loads(message)


def _become(call: dict[str, Any]) -> None:
    """Makes this process what a fresh interpreter would be, and runs the program."""
    os.chdir(call["cwd"])
    os.environ.clear()
    os.environ.update(call["env"])
    tempfile.tempdir = None
    first, *sys.argv = call["arguments"]
    if first == "-c":
        sys.path[0] = ""
        code, sys.argv[0] = sys.argv[0], first
        exec(code, {"__name__": "__main__"})
    elif first == "-m":
        sys.path[0] = os.getcwd()
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv.insert(0, first)
        sys.path[0] = str(Path(first).absolute().parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    for library in _LIBRARIES:
        importlib.import_module(library)
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # as in conftest.py
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
