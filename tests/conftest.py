"""Fixtures that all tests share."""

import contextlib
import gc
import inspect
import io
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from absl import flags, logging

import gpstoken_jax
from gpstoken_jax.configs import tiny
from gpstoken_jax.runtime.platforms import tracing_for
from tests.random_run import write_random_run

ROOT = Path(__file__).parents[1]
# Modules that absl takes a program's flags for those of: its own, and what runs and reads it.
_OF_PROGRAMS = ("gpstoken_jax.", "run_", "runpy", "ml_collections.", "absl.flags.")
# Compiled programs are shared by all tests, the processes that they start, and the next run; small
# ones, too: to compile one takes 50 ms of processor time, to read it 10.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# What tests run compiles far longer than it computes: without optimisation, and in one piece, that
# takes 28% less processor time. On a GPU the kernels are checked as users have them.
if shutil.which("nvidia-smi") is None:
    QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY}".strip()
# Programs would start again to ask for huge pages, which gain nothing while they compile.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
# Tracing makes millions of objects that stay: to look through them less often saves a tenth of it.
gc.set_threshold(20_000, 20, 20)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=500, help="Damaged files that each reader tries.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts rooms with long files first, so that the last worker does not end with one alone."""
    items.sort(key=lambda item: item.path.parent.name not in ("programs", "training", "model"))


@pytest.fixture(scope="session", autouse=True)
def _cpu_alone():
    """Nothing is traced for a GPU where there is none; see tests/runtime/test_platforms.py."""
    platforms = {device.platform for device in jax.devices()}
    with tracing_for(platforms.pop() if len(platforms) == 1 else None):
        yield


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Values measured from the published implementation; see its README.md."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def env() -> dict[str, str]:
    """Returns the environment of the programs that tests start, wherever they start them."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def started() -> Iterator[list]:
    """A list for the processes that a test starts; those that still run are killed at its end."""
    processes = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def program() -> Callable[..., str]:
    """Runs a program by name with flags in this process, and returns what it printed."""

    others = {}  # flags of programs that tests import; put back, they are of no module

    def run(name: str, *arguments: str) -> str:
        printed, argv, verbosity = io.StringIO(), sys.argv, logging.get_verbosity()
        sys.argv = [name, *arguments]  # where fields of configs are looked for
        others.update({flag: flags.FLAGS[flag] for flag in _program_flags()})
        for flag in others:
            delattr(flags.FLAGS, flag)
        before = set(flags.FLAGS)
        try:
            module = runpy.run_module(f"gpstoken_jax.programs.{name}", run_name=f"run_{name}")
            rest, main = flags.FLAGS(sys.argv)[1:], module["main"]
            with contextlib.redirect_stdout(printed):
                main(*[rest] if inspect.signature(main).parameters else [])
        finally:
            sys.argv = argv
            logging.set_verbosity(verbosity)
            for flag in set(flags.FLAGS) - before:
                if flags.FLAGS.find_module_defining_flag(flag).startswith(_OF_PROGRAMS):
                    delattr(flags.FLAGS, flag)  # a library's, imported only now, must stay
            for flag, value in others.items():
                flags.FLAGS[flag] = value
        return printed.getvalue()

    return run


def _program_flags() -> set[str]:
    """Names the flags of programs that tests of this process have imported."""
    modules = flags.FLAGS.flags_by_module_dict().items()
    return {
        flag.name
        for module, defined in modules
        if module.startswith(f"{gpstoken_jax.__name__}.programs.")
        for flag in defined
        if flag.name in flags.FLAGS
    }


@pytest.fixture(scope="session")
def random_run(tmp_path_factory) -> Path:
    """A run's directory for 32 x 32 images, as train.py leaves it, with random weights."""
    return write_random_run(tmp_path_factory.mktemp("random_run"), tiny.get_config("smoke"))
