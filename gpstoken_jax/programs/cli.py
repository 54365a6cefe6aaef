"""What the programs share: data flags, the compilation cache, errors without tracebacks."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from gpstoken_jax.data.loader import UnreadableDataError
from gpstoken_jax.runtime import processes
from gpstoken_jax.runtime.checkpoint import CheckpointError

FLAGS = flags.FLAGS
# Mistakes of input, not of code: their message is all that a user needs.
USER_ERRORS = (
    CheckpointError,
    UnreadableDataError,
    processes.ProcessError,
    ValueError,
    OSError,
    FloatingPointError,
)


def define_data_flags():
    """Defines ``--data.folder``, ``--data.tfds_name`` and ``--data.tfds_dir``."""
    return config_flags.DEFINE_config_dict(
        "data",
        ConfigDict({name: placeholder(str) for name in ("folder", "tfds_name", "tfds_dir")}),
        "Where the images are: a folder, or a TFDS data set by directory or by name.",
    )


def apply_flags(section: ConfigDict, given: ConfigDict) -> None:
    """Overrides the fields of a config section that were given as flags."""
    section.update({name: value for name, value in given.items() if value is not None})


def define_process_flags() -> None:
    """Defines ``--coordinator``, ``--num_processes`` and ``--process_id``; ``run`` heeds them."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0, to run as one of several processes; 'auto' under SLURM, Open MPI "
        "or Kubernetes.",
    )
    flags.DEFINE_integer("num_processes", None, "How many processes there are.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, in the user's cache directory.

    ``JAX_COMPILATION_CACHE_DIR`` names another directory; empty, it switches the cache off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache / "gpstoken_jax" / "xla"))


def run(main: Callable[[], int | None]) -> None:
    """Parses flags, joins the other processes if there are any, and runs ``main``.

    Its result is the exit code; a user's mistake becomes one line and exit code 1.
    """

    def guarded(arguments: list[str]) -> int | None:
        if len(arguments) > 1:
            raise app.UsageError(f"unexpected argument {arguments[1]!r}; flags start with --")
        logging.set_verbosity(logging.WARNING)
        use_compilation_cache()
        try:
            if "coordinator" in FLAGS:
                processes.join(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
            with processes.only_first_prints():
                return main()
        except (*USER_ERRORS, jax.errors.JaxRuntimeError) as error:
            gone = processes.means_another_is_gone(error)
            if logging.level_debug() or not (gone or isinstance(error, USER_ERRORS)):
                raise
            reason = "another process is gone, look at its messages" if gone else str(error)
            print(f"{processes.name_of_this()}error: {reason}", file=sys.stderr, flush=True)
            return processes.leave(processes.EXIT_CODE_OTHER_GONE if gone else 1)

    app.run(guarded)
