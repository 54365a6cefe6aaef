"""How long a run has taken and how long it has to go, over all its restarts."""

import time
from dataclasses import dataclass, field


@dataclass
class Chronometer:
    """Measures training speed between calls of ``tick``.

    Attributes:
      total_steps: length of the run.
      batch_size: images a step, over all hosts.
      train_seconds: time spent in earlier and in this process; part of the checkpoint.
    """

    total_steps: int
    batch_size: int
    train_seconds: float = 0.0
    _last: tuple[int, float] | None = field(default=None, repr=False)

    def start(self, step: int) -> None:
        """Begins (again) to count, at ``step`` steps done."""
        self._last = (step, time.perf_counter())

    def tick(self, step: int) -> dict[str, float]:
        """Speed since the last call: images_per_second, seconds_per_step, train_seconds, eta."""
        if self._last is None:
            raise RuntimeError("call start() before tick()")
        last_step, last_time = self._last
        seconds = time.perf_counter() - last_time
        self.start(step)
        self.train_seconds += seconds
        per_step = seconds / max(step - last_step, 1)
        return {
            "images_per_second": self.batch_size / per_step,
            "seconds_per_step": per_step,
            "train_seconds": self.train_seconds,
            "eta_seconds": per_step * (self.total_steps - step),
        }


def format_seconds(seconds: float) -> str:
    """E.g. 75 as ``1m15s``, 7300 as ``2h01m``."""
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds % 60:02d}s" if minutes else f"{seconds}s"
