"""Several processes, on one host or many, that work as one: joining, agreeing, sharing.

Every process runs the same program with its own share of the data. Alone, all of this costs
nothing and does nothing.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpstoken_jax.runtime import rendezvous
from gpstoken_jax.runtime.fingerprints import first_difference

Tree = Any
T = TypeVar("T")
AUTO, ALONE = "auto", "none"
# Tasks of a step, as srun and mpirun tell each of them; a batch script's own shell has neither.
_TASKS = "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"
EXIT_CODE_OTHER_GONE = 76  # another process ended in the middle of a step
_CHUNK = 16 * 2**20  # words of a broadcast


class ProcessError(RuntimeError):
    """Something went wrong in another process, or the processes do not fit together."""


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several, if a coordinator is given or a cluster started several.

    Args:
      coordinator: HOST:PORT of process 0, or ``"auto"`` under SLURM, Open MPI or Kubernetes, where
        JAX finds out everything by itself, or ``"none"`` to stay alone there. If None,
        ``JAX_COORDINATOR_ADDRESS``, or ``"auto"`` in one of several tasks of srun or mpirun.
      num_processes: how many there are; if None, ``JAX_NUM_PROCESSES``.
      process_id: which one this is, from 0; if None, ``JAX_PROCESS_ID``.

    Raises:
      ValueError: if something is missing or out of range.
      ProcessError: if the others cannot be reached.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not coordinator and num_processes is process_id is None and _is_one_of_several():
        coordinator = AUTO
    if not coordinator or coordinator == ALONE:
        if num_processes is not None or process_id is not None:
            raise ValueError("--num_processes and --process_id need --coordinator=HOST:PORT")
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # between CPUs
    jax.config.update("jax_enable_preemption_service", False)  # training/stop_signals.py does it
    try:
        if coordinator == AUTO:
            known = _find_cluster()
        else:
            known = _address(coordinator, num_processes, process_id)
        rendezvous.meet(*list(known.values())[:3])
        jax.distributed.initialize(**known)
    except rendezvous.RendezvousError as error:
        raise ProcessError(str(error)) from error
    except (ValueError, ProcessError):
        raise
    except Exception as error:  # RuntimeError or what the cluster's variables cause
        reason = " ".join(str(error).split())
        raise ProcessError(f"cannot join the processes at {coordinator}: {reason}") from error


def _address(coordinator: str, num_processes: int | None, process_id: int | None) -> dict[str, Any]:
    num_processes = _number("num_processes", num_processes, "JAX_NUM_PROCESSES")
    process_id = _number("process_id", process_id, "JAX_PROCESS_ID")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"--process_id={process_id} is not in 0 .. {num_processes - 1}")
    return {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }


def _is_one_of_several() -> bool:
    counts = (os.environ.get(name, "") for name in _TASKS)
    return any(count.isdecimal() and int(count) > 1 for count in counts)


def _find_cluster() -> dict[str, Any]:
    """Asks JAX for what it finds out by itself, so that the missing are named before it joins."""
    from jax._src.clusters import ClusterEnv  # there is no public way to ask

    found = ClusterEnv.auto_detect_unset_distributed_params(
        *[None] * 5, int(rendezvous.GIVE_UP_SECONDS)
    )
    if None in found[:3]:
        raise ProcessError(
            "--coordinator=auto finds no SLURM, Open MPI or Kubernetes here: give HOST:PORT of "
            "process 0, --num_processes and --process_id"
        )
    names = "coordinator_address", "num_processes", "process_id", "local_device_ids"
    return dict(zip(names, found, strict=True))


def _number(name: str, value: int | None, variable: str) -> int:
    text = os.environ.get(variable) if value is None else value
    if text is None:
        raise ValueError(f"--coordinator needs --{name} (or {variable}), or --coordinator=auto")
    return int(text)


def share_of_array(given: str | None) -> tuple[int, int]:
    """The share of the work of one of several processes that know nothing of each other.

    Args:
      given: ``"I/N"``, share I, from 0, of N; None is that of a task of a SLURM array, where there
        is one.

    Returns:
      The number of the share and how many there are; (0, 1) alone.

    Raises:
      ValueError: for anything else, or an array that was given with gaps.
    """
    if given is None:
        names = ("ID", "MIN", "MAX", "COUNT")
        texts = [os.environ.get(f"SLURM_ARRAY_TASK_{name}", "") for name in names]
        if not all(text.isdecimal() for text in texts):
            return 0, 1
        number, first, last, count = map(int, texts)
        if last - first + 1 != count:
            raise ValueError(
                f"the SLURM array has {count} tasks from {first} to {last}: give one without gaps, "
                "or --share=I/N"
            )
        return number - first, count
    if not (match := re.fullmatch(r"(\d+)/(\d+)", given)) or int(match[1]) >= int(match[2]):
        raise ValueError(f"--share={given} must be I/N, with I from 0 to N - 1")
    return int(match[1]), int(match[2])


def share_of_work(given: str | None) -> tuple[int, int]:
    """The share of this process: one of several that work as one, or ``share_of_array``.

    Raises:
      ValueError: as of that, or if both are asked for.
    """
    share = share_of_array(given)
    if jax.process_count() == 1:
        return share
    if share[1] > 1:
        raise ValueError("shares of an array are for processes that are alone: --coordinator=none")
    return jax.process_index(), jax.process_count()


def is_primary_process() -> bool:
    """True in process 0: the one that prints, logs and writes checkpoints."""
    return jax.process_index() == 0


@contextlib.contextmanager
def only_first_prints() -> Iterator[None]:
    """Drops the standard output of processes other than the first; errors are kept."""
    if is_primary_process():
        yield
    else:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield


def name_of_this() -> str:
    """E.g. ``process 1: `` for messages; empty if there is only one."""
    return f"process {jax.process_index()}: " if jax.process_count() > 1 else ""


def means_another_is_gone(error: Exception) -> bool:
    """Tells whether an error is that of a step that waited for a process which is no more."""
    kinds = "Gloo|NCCL|coordination service"  # JAX has no type of its own for it
    return jax.process_count() > 1 and re.search(kinds, str(error)) is not None


def leave(exit_code: int) -> int:
    """Ends one of several processes at once, so that the others notice; alone, returns the code."""
    if jax.process_count() > 1:
        sys.stdout.flush()
        os._exit(exit_code)
    return exit_code


def wait_for_all(what: str) -> None:
    """Returns once every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def total(count: int) -> int:
    """The sum of a number over all processes, in each of them."""
    if jax.process_count() == 1:
        return count
    return int(multihost_utils.process_allgather(np.int32(count)).sum())


def gather(data: bytes) -> Iterator[bytes]:
    """Gathers every process's value, in their order, in each of them; one at a time, for memory."""
    if jax.process_count() == 1:
        yield data
        return
    for source in range(jax.process_count()):
        yield _broadcast_bytes(data if jax.process_index() == source else b"", source)


def check_same(what: str, value: Any) -> None:
    """Compares a JSON value, or what a function returns, of every process with that of process 0.

    Raises:
      ProcessError: in those where it is another; names the first difference.
    """
    if jax.process_count() == 1:
        return
    value = json.loads(json.dumps({what: value() if callable(value) else value}))
    if difference := first_difference(from_first(lambda: value), value):
        raise ProcessError(
            f"{what} is not the same as that of process 0: {difference} here; start all alike"
        )


def in_first(function: Callable[[], T]) -> T | None:
    """Calls ``function`` in process 0 and returns its result there; None in others, which wait.

    Raises:
      ProcessError: in the others, if it raises in process 0.
    """
    results = []
    from_first(lambda: results.append(function()))
    return results[0] if results else None


def from_first(function: Callable[[], T]) -> T:
    """Calls ``function`` in process 0 and returns its result, a JSON value, in all of them.

    Raises:
      ProcessError: in the others, if it raises in process 0.
    """
    if jax.process_count() == 1:
        return function()
    result, error = None, None
    if is_primary_process():
        try:
            result = function()
        except Exception as raised:
            error = raised
    message = {"result": result, "error": None if error is None else str(error)}
    text = _broadcast_bytes(json.dumps(message).encode() if is_primary_process() else b"")
    if error is not None:
        raise error
    message = json.loads(text)
    if message["error"] is not None:
        raise ProcessError(message["error"])
    return message["result"]


def broadcast(tree: Tree, template: Tree) -> Tree:
    """The tree of process 0 in all of them, to the bit.

    Args:
      tree: NumPy arrays; ignored in all but process 0.
      template: a tree of the same structure, shapes and types, everywhere.
    """
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(template)
    data = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))
    data = memoryview(_broadcast_bytes(data if is_primary_process() else b""))
    result, start = [], 0
    for leaf in leaves:
        end = start + np.dtype(leaf.dtype).itemsize * int(np.prod(leaf.shape))
        result.append(np.frombuffer(data[start:end], leaf.dtype).reshape(leaf.shape))
        start = end
    return jax.tree.unflatten(structure, result)


def _broadcast_bytes(data: bytes, source: int = 0) -> bytes:
    """In pieces, so that devices need little memory; as integers, whose sum is exact."""
    is_source = jax.process_index() == source
    size = multihost_utils.broadcast_one_to_all(
        np.uint32([len(data) >> 32, len(data) & (2**32 - 1)]), is_source
    )
    size = (int(size[0]) << 32) | int(size[1])
    words = np.zeros(-(-size // 4), np.uint32)
    if is_source:
        words.view(np.uint8)[:size] = np.frombuffer(data, np.uint8)
    for start in range(0, len(words), _CHUNK):
        piece = words[start : start + _CHUNK]
        piece[:] = multihost_utils.broadcast_one_to_all(piece.copy(), is_source)
    return words.tobytes()[:size]
