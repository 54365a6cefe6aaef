"""Progress lines of programs that go through many images, and words for long silences."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

EVERY_SECONDS = 5.0
SILENCE_SECONDS = 3.0
_TIMES = "gpstoken_seconds.json"  # beside the compiled programs, by what was compiled


@dataclass
class Progress:
    """Prints how many of ``total`` images are done, at what speed, and when the rest will be.

    Attributes:
      total: images of this part of the work.
      done: of them.
      label: before each line.
      later: work of the parts that follow, in images of this one.
      unit: what is counted.
    """

    total: int
    done: int = 0
    label: str = ""
    later: float = 0.0
    unit: str = "images"
    _start: float = field(default_factory=time.perf_counter, repr=False)
    _last: float = field(default=0.0, repr=False)
    _before: int = field(default=0, repr=False)

    def start_at(self, done: int) -> None:
        """Counts images that an earlier run has done, which say nothing of the speed."""
        self.done = self._before = min(done, self.total)

    def advance(self, images: int) -> None:
        """Counts images; prints a line every few seconds and at the end."""
        self.done += images
        now = time.perf_counter()
        if now - self._last > EVERY_SECONDS or self.done == self.total:
            self._last = now
            speed = max(self.done - self._before, 1e-9) / (now - self._start)
            eta = format_seconds((self.total - self.done + self.later) / speed)
            speed = format_speed(speed, self.unit)
            line = f"{self.done}/{self.total} {self.unit}  {speed}  ETA {eta}"
            print(f"{self.label}{line}", flush=True)


@contextlib.contextmanager
def compiling(what: str, key: str) -> Iterator[None]:
    """Prints that something is being compiled if that takes more than a moment.

    Args:
      what: for people, e.g. ``"the encoder"``.
      key: tells programs apart; the time of each is kept beside JAX's compilation cache.
    """
    import jax

    from gpstoken_jax.runtime.files import DamagedFileError, read_json, write_json

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
    import jax
    import numpy as np

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


def format_speed(images_per_second: float, unit: str = "images") -> str:
    """E.g. "12.3 images/s", or what says more of a slow model: "0.1 images/s (8.3 s each)"."""
    seconds = f" ({1 / images_per_second:.1f} s each)" if images_per_second < 1 else ""
    return f"{images_per_second:.1f} {unit}/s{seconds}"


def format_seconds(seconds: float) -> str:
    """Formats a duration for people: 75 as ``1m15s``, 7300 as ``2h01m``."""
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds % 60:02d}s" if minutes else f"{seconds}s"
