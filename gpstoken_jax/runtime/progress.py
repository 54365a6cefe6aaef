"""Progress lines of programs that go through many images."""

import time
from dataclasses import dataclass, field

EVERY_SECONDS = 5.0


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
