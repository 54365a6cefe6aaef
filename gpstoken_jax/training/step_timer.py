"""Time that a run has taken and has to go, over all its restarts."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

WAITS = ("data", "device")
_SLOW = 2.0  # seconds a step


@dataclass
class StepTimer:
    """Measures training speed between calls of ``tick``.

    Attributes:
      total_steps: length of the run.
      batch_size: images a step, over all hosts.
      train_seconds: time spent in earlier and in this process; part of the checkpoint.
      is_slow: a step takes so long that it is no loss to have only one under way.
    """

    total_steps: int
    batch_size: int
    train_seconds: float = 0.0
    is_slow: bool = False
    _last: tuple[int, float] | None = field(default=None, repr=False)
    _waited: dict[str, float] = field(default_factory=dict, repr=False)

    def start(self, step: int) -> None:
        """Begins (again) to count, at ``step`` steps done."""
        self._last = (step, time.perf_counter())
        self._waited = dict.fromkeys(WAITS, 0.0)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Counts what it encloses as waiting for one of ``WAITS``."""
        begun = time.perf_counter()
        yield
        self._waited[what] = self._waited.get(what, 0.0) + time.perf_counter() - begun

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what it encloses (an evaluation, a picture) out of the training time."""
        begun = time.perf_counter()
        yield
        if self._last is not None:
            step, since = self._last
            self._last = step, since + time.perf_counter() - begun

    def tick(self, step: int) -> dict[str, float]:
        """Speed since the last call.

        seconds (since then), images_per_second, seconds_per_step, train_seconds, eta_seconds, and
        the shares of the time in which this program waited: data_wait, for the data, and
        device_wait. Where reading the data is the limit, it waits for that alone.
        """
        if self._last is None:
            raise RuntimeError("call start() before tick()")
        last_step, last_time = self._last
        seconds, waited = time.perf_counter() - last_time, self._waited
        self.start(step)
        self.train_seconds += seconds
        per_step = seconds / max(step - last_step, 1)
        self.is_slow = per_step > _SLOW
        return {
            "images_per_second": self.batch_size / per_step,
            "seconds": seconds,
            "seconds_per_step": per_step,
            "train_seconds": self.train_seconds,
            "eta_seconds": per_step * (self.total_steps - step),
            **{f"{what}_wait": min(waited[what] / seconds, 1.0) for what in WAITS},
        }
