"""Memory that a run takes."""

import resource
import sys

import jax


def memory_in_use() -> dict[str, float]:
    """Peaks so far, in GB: host_memory_gb and, where the device tells, device_memory_gb."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    peaks = {"host_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        peaks["device_memory_gb"] = statistics["peak_bytes_in_use"] / 1e9
    return peaks
