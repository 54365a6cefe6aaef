"""SIGTERM (preemption) and Ctrl-C: the first asks to save and stop, the second stops at once."""

import os
import signal
import threading
from collections import deque

import jax
import numpy as np

from gpstoken_jax.runtime.devices import map_over_devices

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: nothing is lost, start the same command again
LAG = 2  # steps between a vote and its count, so that no device waits for it


class StopSignals:
    """Listens from when it is made until ``close``; in the main thread.

    A thread hears of a signal even while the main one is inside a compilation.

    Attributes:
      requested: whether a signal has come.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)):
        self.requested = False
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in signals}
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        self._thread.start()

    def _listen(self, reader: int) -> None:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while received := pipe.read(1):
                number = received[0]
                if number not in self._before:
                    continue  # Python's wake-up is for all signals that anyone handles
                if self.requested:
                    os._exit(128 + number)
                self.requested = True
                name = signal.Signals(number).name
                print(f"{name}: saving after this step; once more stops at once", flush=True)

    def close(self) -> None:
        """Gives the signals back."""
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._writer)
        self._thread.join()


class StopVote:
    """Decides after each step, in all processes alike, whether to stop: if a signal came to any.

    With one process at once, with several ``LAG`` steps later.
    """

    def __init__(self):
        self._waiting = deque()
        self._count = map_over_devices(
            lambda vote: jax.lax.psum(vote, "all"), (0,), axis_name="all"
        )

    def __call__(self, requested: bool) -> bool:
        """To be called after every step, in every process."""
        if jax.process_count() == 1:
            return requested
        votes = np.full(jax.local_device_count(), requested, np.int32)
        self._waiting.append(self._count(votes))
        if len(self._waiting) <= LAG:
            return False
        return bool(self._waiting.popleft().addressable_data(0).any())
