"""A record of the shapes that are compiled already."""

import contextlib
import threading
from collections.abc import Hashable, Iterable, Iterator


class Warmth:
    """A list of shapes to compile, and what has become of them.

    Args:
      shapes: what to compile, in this order.
    """

    def __init__(self, shapes: Iterable[Hashable] = ()):
        self._ready: dict[Hashable, bool] = dict.fromkeys(shapes, False)
        self._locks: dict[Hashable, threading.Lock] = {}
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def using(self, shape: Hashable) -> Iterator[None]:
        """Runs what uses a shape; of the first uses of one, one compiles and the others wait."""
        with self._guard:
            ready = self._ready.setdefault(shape, False)
            lock = self._locks.setdefault(shape, threading.Lock())
        with contextlib.nullcontext() if ready else lock:
            yield
        self._ready[shape] = True

    def expect(self, shapes: Iterable[Hashable]) -> None:
        """Puts shapes at the front of the list."""
        with self._guard:
            self._ready = {shape: self._ready.get(shape, False) for shape in shapes} | self._ready

    def waiting(self) -> list[Hashable]:
        """Shapes that are not compiled yet."""
        with self._guard:
            return [shape for shape, ready in self._ready.items() if not ready]

    def progress(self) -> tuple[int, int]:
        """Tells how many shapes are compiled, and of how many."""
        with self._guard:
            return sum(self._ready.values()), len(self._ready)
