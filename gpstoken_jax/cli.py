"""What the programs share: data flags, the compilation cache, errors without tracebacks."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from gpstoken_jax.checkpoint import CheckpointError

# Mistakes of input, not of code: their message is all that a user needs.
USER_ERRORS = (CheckpointError, ValueError, OSError, FloatingPointError)


def define_data_flags():
    """Defines ``--data.folder``, ``--data.tfds_name`` and ``--data.tfds_dir``."""
    return config_flags.DEFINE_config_dict(
        "data",
        ConfigDict({name: placeholder(str) for name in ("folder", "tfds_name", "tfds_dir")}),
        "Where the images are: a folder, or a TFDS data set by directory or by name.",
    )


def apply_flags(section: ConfigDict, flags: ConfigDict) -> None:
    """Overrides the fields of a config section that were given as flags."""
    section.update({name: value for name, value in flags.items() if value is not None})


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, in the user's cache directory.

    ``JAX_COMPILATION_CACHE_DIR`` names another directory; empty, it switches the cache off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache / "gpstoken_jax" / "xla"))


def run(main: Callable[[], int | None]) -> None:
    """Parses flags, runs ``main``; a user's mistake becomes one line and exit code 1."""

    def guarded(arguments: list[str]) -> int | None:
        if len(arguments) > 1:
            raise app.UsageError(f"unexpected argument {arguments[1]!r}; flags start with --")
        logging.set_verbosity(logging.WARNING)
        use_compilation_cache()
        try:
            return main()
        except USER_ERRORS as error:
            if logging.level_debug():
                raise
            print(f"error: {error}", file=sys.stderr)
            return 1

    app.run(guarded)
