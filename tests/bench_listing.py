"""Time the listing of a directory with very many files, and tell the memory that it takes.

    python -m tests.bench_listing [--files 1000000]

The files are empty and lie in a temporary directory, a thousand in each class. Nothing of them is
read: an image is told by its name.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from gpstoken_jax.configs import common
from gpstoken_jax.data import DataSet

PER_CLASS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for number in range(options.files):
            path = Path(directory, f"class{number // PER_CLASS:05d}", f"{number:08d}.jpg")
            path.parent.mkdir(exist_ok=True)
            path.touch()
        config = common.get_config().data
        config.folder = directory
        images = DataSet(config)
        before = _peak_mb()
        for split in ("train", "val"):
            start = time.perf_counter(), time.process_time()
            source = images.open(split)
            print(
                f"{source.description}: {time.perf_counter() - start[0]:.2f} s, of the processor "
                f"{time.process_time() - start[1]:.2f} s"
            )
    print(f"memory: {_peak_mb():.0f} MB at most, {before:.0f} before")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
