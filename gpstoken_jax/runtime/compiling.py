"""Words for the long silence of compiling, with the time that it took before."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpstoken_jax.runtime.files import DamagedFileError, read_json, write_json
from gpstoken_jax.runtime.progress import format_seconds

SILENCE_SECONDS = 3.0
_TIMES = "gpstoken_seconds.json"  # beside the compiled programs, by what was compiled


@contextlib.contextmanager
def compiling(what: str, key: str) -> Iterator[None]:
    """Prints that something is being compiled if that takes more than a moment.

    Args:
      what: for people, e.g. ``"the encoder"``.
      key: tells programs apart; the time of each is kept beside JAX's compilation cache.
    """
    folder, times = jax.config.jax_compilation_cache_dir, {}
    if folder is not None:
        with contextlib.suppress(OSError, DamagedFileError):
            times = read_json(Path(folder) / _TIMES)
    about = f"{format_seconds(times[key])} last time" if key in times else "a minute or so at first"
    line = f"compiling {what} ... ({about}{f', kept in {folder}' if folder else ''})"
    timer = threading.Timer(SILENCE_SECONDS, print, [line], {"flush": True})
    timer.daemon = True
    start = time.perf_counter()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    seconds = time.perf_counter() - start
    if folder is not None and seconds > SILENCE_SECONDS:
        with contextlib.suppress(OSError):
            write_json(Path(folder) / _TIMES, times | {key: seconds})


def announced(
    function: Callable[..., Any], name: str | None, looked_at: Callable[..., Any]
) -> Callable[..., Any]:
    """Makes a compiled function say so where its compilation takes long.

    Args:
      function: for which each new shape is another program.
      name: for people, see ``compiling``; None changes nothing.
      looked_at: those of its arguments, as a tree, whose shapes tell its programs apart.
    """
    seen: set[str] = set()

    @wraps(function)
    def call(*arguments: Any) -> Any:
        shapes = str(jax.tree.map(np.shape, looked_at(*arguments)))
        if shapes in seen:
            return function(*arguments)
        seen.add(shapes)
        with compiling(name, f"{name} {shapes} {jax.devices()[0].device_kind}"):
            return function(*arguments)

    return function if name is None else call
