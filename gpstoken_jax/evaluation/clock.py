"""How far a grid is, and when the rest of it will be done."""

import time
from dataclasses import dataclass, field

from gpstoken_jax.training.chronometer import format_seconds

EVERY_SECONDS = 5.0


@dataclass
class GridClock:
    """Prints progress over all cells; time is guessed in proportion to pixels.

    Attributes:
      pixels: of all cells that are still to be measured.
      cells: how many cells there are in all.
    """

    pixels: int
    cells: int
    _finished: float = 0.0  # pixels of cells that are done
    _start: float = field(default_factory=time.perf_counter)
    _last: float = field(default_factory=time.perf_counter)

    def begin(self, number: int, num_images: int, pixels: int) -> None:
        """Cell ``number`` (from 1) begins."""
        self._number, self._total, self._cell_pixels = number, num_images, pixels
        self._images, self._began = 0, time.perf_counter()

    def skip(self, pixels: int) -> None:
        """A cell needs no work after all."""
        self.pixels -= pixels

    def advance(self, images: int) -> None:
        """Counts images of this cell, of all processes; prints a line every few seconds."""
        self._images = min(self._images + images, self._total)
        now = time.perf_counter()
        if now - self._last > EVERY_SECONDS or self._images == self._total:
            self._print(now)

    def end(self) -> None:
        """The cell is done, also if some of its images could not be read."""
        self._finished += self._cell_pixels

    def _print(self, now: float) -> None:
        self._last = now
        done = self._finished + self._cell_pixels * self._images / self._total
        rest = (self.pixels - done) / (done / (now - self._start))
        cell = f"cell {self._number}/{self.cells}  " if self.cells > 1 else ""
        speed = f"{self._images / (now - self._began):.1f} images/s"
        eta = f"ETA {format_seconds(max(0.0, rest))}"
        print(f"{cell}{self._images}/{self._total} images  {speed}  {eta}", flush=True)
