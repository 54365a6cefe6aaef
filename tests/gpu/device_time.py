"""Time that the device works, read from a profile: a kernel may be shorter than its launch takes.

On a GPU everything that its streams ran counts; on a CPU, for trying this out, the operations of
the compiled program. Intervals that overlap or hold each other count once.
"""

import contextlib
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData


@dataclass(frozen=True)
class Times:
    """Microseconds of one call of a program.

    device: of the device alone, on average; None if the profile has nothing of it.
    wall: of many calls one after another, none waited for but the last, over their number.
    parts: of each kernel, by name; they add up to `device` where nothing overlaps.
    events: what the device ran in one call.
    """

    device: float | None
    wall: float
    parts: dict[str, float]
    events: float


def measure(function: Callable[..., Any], *arguments: Any, seconds: float = 0.2) -> Times:
    """Times of one call; the function is compiled already. Takes about twice `seconds`."""
    jax.block_until_ready(function(*arguments))
    begun = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    calls = max(3, min(200, int(seconds / (time.perf_counter() - begun))))
    wall = _repeat(function, arguments, calls)
    with tempfile.TemporaryDirectory() as folder:
        with _profile(folder):
            _repeat(function, arguments, calls)
        found = sorted(Path(folder).rglob("*.xplane.pb"))
        events = device_events(ProfileData.from_file(str(found[-1]))) if found else []
    parts = Counter()
    for name, begin, end in events:
        parts[name] += (end - begin) / 1e3 / calls
    device = covered((begin, end) for _, begin, end in events) / 1e3 / calls if events else None
    return Times(device, wall / calls * 1e6, dict(parts.most_common(12)), len(events) / calls)


def _repeat(function, arguments, calls: int) -> float:
    begun = time.perf_counter()
    for _ in range(calls):
        result = function(*arguments)
    jax.block_until_ready(result)
    return time.perf_counter() - begun


@contextlib.contextmanager
def _profile(folder: str):
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(folder, profiler_options=options):
        yield


def device_events(profile: ProfileData) -> list[tuple[str, float, float]]:
    """Name, begin and end in nanoseconds of everything that the device did."""
    planes = list(profile.planes)
    gpus = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    found = []
    with warnings.catch_warnings():
        # Of the binding's own types; as an error it would end the process.
        warnings.simplefilter("ignore", DeprecationWarning)
        for plane in gpus or [plane for plane in planes if plane.name == "/host:CPU"]:
            lines = list(plane.lines)
            # A GPU's plane may repeat its kernels on lines by module and by operation.
            streams = [line for line in lines if line.name.startswith("Stream")]
            found += [
                (event.name, event.start_ns, event.start_ns + event.duration_ns)
                for line in streams or lines
                for event in line.events
                if gpus or any(name == "hlo_op" for name, _ in event.stats)
            ]
    return found


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
