"""Processes that meet before JAX joins them, as threads: who is missing is said by number."""

import collections
import socket
import threading
import time

import jax
import pytest

from gpstoken_jax.runtime import processes, rendezvous
from gpstoken_jax.runtime.rendezvous import RendezvousError, meet


@pytest.fixture(autouse=True)
def collectives():
    """Leaves JAX as it was: joining chooses how processes talk."""
    name = "jax_cpu_collectives_implementation"
    before = getattr(jax.config, name)
    yield
    jax.config.update(name, before)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _start(port, count, numbers, says=None):
    """Result of each process: None, or its error."""
    results = {}

    def one(number):
        try:
            meet(f"127.0.0.1:{port}", (says or {}).get(number, count), number)
            results[number] = None
        except Exception as error:
            results[number] = str(error)

    threads = [threading.Thread(target=one, args=(n,), daemon=True) for n in numbers]
    for thread in threads:
        thread.start()
    return results, threads


def _finish(threads):
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_go_on_once_all_are_there(port, order):
    results, threads = {}, []
    for number in order:
        more, started = _start(port, 3, [number])
        threads += started
        results[number] = more
        time.sleep(0.05)
    _finish(threads)
    assert [results[n][n] for n in range(3)] == [None] * 3
    with socket.create_server(("", port)):
        pass  # the port is free for JAX


def test_alone_there_is_nobody_to_wait_for(port):
    meet(f"127.0.0.1:{port}", 1, 0)


def test_who_is_missing_is_said_while_waiting_and_at_the_end(port, monkeypatch, capfd):
    monkeypatch.setattr(rendezvous, "REMIND_SECONDS", 0.2)
    monkeypatch.setattr(rendezvous, "GIVE_UP_SECONDS", 1.5)
    results, threads = _start(port, 5, [0, 2, 3])
    _finish(threads)
    assert "process 1, 4 did not come in" in results[0]
    assert "still waiting for process 1, 4" in capfd.readouterr().err
    assert results[2] and results[3]


def test_process_0_is_missing(port, monkeypatch, capfd):
    monkeypatch.setattr(rendezvous, "REMIND_SECONDS", 0.2)
    monkeypatch.setattr(rendezvous, "GIVE_UP_SECONDS", 1.0)
    results, threads = _start(port, 2, [1])
    _finish(threads)
    assert f"process 0 at 127.0.0.1:{port} did not come" in results[1]
    assert f"still waiting for process 0 at 127.0.0.1:{port}" in capfd.readouterr().err


def test_a_taken_port_is_named(port):
    with socket.create_server(("", port)), pytest.raises(RendezvousError, match=f"port {port}"):
        meet(f"127.0.0.1:{port}", 2, 0)


def test_processes_that_count_otherwise_are_named(port):
    results, threads = _start(port, 2, [0, 1], says={1: 4})
    _finish(threads)
    for number in (0, 1):
        assert "process 1 of 4 came to a run of 2 processes" in results[number]


def test_strangers_are_not_counted(port):
    results, threads = _start(port, 2, [0])
    for said in (b"GET / HTTP/1.1\n", b"[]\n", b'{"process": "x"}\n', b"", b"{" * 5000):
        deadline = time.monotonic() + 10
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(said)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    more, started = _start(port, 2, [1])
    _finish([*threads, *started])
    assert results[0] is None and more[1] is None


def test_a_process_that_is_started_again_is_counted_once(port):
    results, threads = _start(port, 3, [0])
    first, started = _start(port, 3, [1])
    time.sleep(0.5)
    again, restarted = _start(port, 3, [1])
    _finish(restarted)
    assert "process 1 is here already" in again[1] and not results and not first
    last, others = _start(port, 3, [2])
    _finish([*threads, *started, *others])
    assert results[0] is None and first[1] is None and last[2] is None


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_one_that_was_killed_may_come_again(order, port):
    """Also after all the others: nobody goes on without it."""
    results, threads = _start(port, 3, [0])
    time.sleep(0.3)
    with socket.create_connection(("127.0.0.1", port)) as killed:
        killed.sendall(b'{"process": 1, "of": 3}\n')
        time.sleep(0.2)
    for number in order:
        one, restarted = _start(port, 3, [number])
        threads, results = threads + restarted, collections.ChainMap(one, results)
        time.sleep(0.5)
    _finish(threads)
    assert dict(results) == {0: None, 1: None, 2: None}


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", ":1234", "localhost:http", "a:70000"]
)
def test_what_is_no_address_is_named(address):
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        meet(address, 2, 0)


@pytest.fixture
def slurm(monkeypatch, port):
    """As `srun` sets it for the first of two processes on this host."""
    names = {"JOB_ID": 1, "STEP_NODELIST": "localhost", "NTASKS": 2, "PROCID": 0, "LOCALID": 0}
    names["STEP_NUM_TASKS"] = 2
    for name, value in names.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("JAX_COORDINATOR_PORT", str(port))


def test_a_cluster_that_is_found_by_itself_says_who_is_missing(slurm, monkeypatch, capsys):
    monkeypatch.setattr(rendezvous, "REMIND_SECONDS", 0.2)
    monkeypatch.setattr(rendezvous, "GIVE_UP_SECONDS", 0.7)
    with pytest.raises(processes.ProcessError, match="process 1 did not come"):
        processes.join("auto", None, None)
    assert "still waiting for process 1" in capsys.readouterr().err


@pytest.mark.parametrize("coordinator", ["auto", None])
def test_a_cluster_that_is_found_is_joined_once_all_are_there(
    coordinator, slurm, port, monkeypatch
):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **known: joined.append(known))
    results, threads = _start(port, 2, [1])
    processes.join(coordinator, None, None)
    _finish(threads)
    assert results == {1: None}
    assert joined == [
        {
            "coordinator_address": f"localhost:{port}",
            "num_processes": 2,
            "process_id": 0,
            "local_device_ids": [0],
        }
    ]


@pytest.mark.parametrize("tasks", ["1", "", None])
def test_a_task_that_is_alone_stays_alone(tasks, slurm, monkeypatch):
    """One task of srun, a batch script's own shell, and whoever asks for it."""
    monkeypatch.setattr(jax.distributed, "initialize", lambda **known: pytest.fail("joined"))
    processes.join("none", None, None)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    if tasks is not None:
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
    processes.join(None, None, None)


def test_no_cluster_is_said_in_one_line():
    with pytest.raises(processes.ProcessError, match="finds no SLURM, Open MPI or Kubernetes"):
        processes.join("auto", None, None)
