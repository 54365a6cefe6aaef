"""Time the loader beside torchvision's DataLoader, in one run.

    taskset -c 0 python -m tests.bench_loader [--photos DIR] [--torch PYTHON] [--threads 1]

Makes JPEG files of 500 x 375 of photos (those that scikit-image and scikit-learn ship, or of DIR),
a data set of them with a short side of 256, and reads all into training batches of 256 x 256
pixels, every way in its turn. Prints images a second by the wall clock, the median of the rounds,
and by the time that the processor worked, which others on the machine disturb less. --torch is an
interpreter that has torchvision; without one that part is left out and said so.
"""

import argparse
import itertools
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from gpstoken_jax import data
from gpstoken_jax.configs import common
from gpstoken_jax.data import demo, folder, prepare
from gpstoken_jax.data.loader import available_cores
from gpstoken_jax.data.shrinking import Shrinking

SIZE = (500, 375)
BATCH = 32


def make_photos(output: Path, photos: str | None, count: int) -> None:
    """Pieces of the photos in the shape of ImageNet's, in ten classes."""
    listing = folder.list_folder(photos) if photos else demo.list_demo_photos()
    files = [file.path for file in listing.files]
    for number in range(count):
        path = files[number % len(files)]
        with Image.open(path) as image:
            piece = image.convert("RGB")
        width = min(piece.width, piece.height * 4 // 3)
        height = width * 3 // 4
        shift = number // len(files) / (count // len(files) + 1)  # another piece in every round
        left, top = round((piece.width - width) * shift), round((piece.height - height) * shift)
        box = (left, top, left + width, top + height)
        made = output / f"class{number % 10}" / f"{number:05d}.jpg"
        made.parent.mkdir(parents=True, exist_ok=True)
        piece.resize(SIZE, Image.Resampling.LANCZOS, box=box).save(made, quality=90)


def ours(threads: int, workers: int, **where: str) -> Callable[[int], tuple[float, float]]:
    """A function that reads a number of batches and tells its seconds and the processor's."""
    config = common.get_config().data
    config.update(cache_mb=0, num_threads=threads, num_workers=workers, prefetch=1)
    config.update(val_fraction=0.0, **where)
    source = data.open_source(config, "train")
    batches = data.train_batches(source, config, 256, BATCH, seed=0)

    def read(count: int) -> tuple[float, float]:
        start = time.perf_counter(), time.process_time()
        for _ in range(count):
            next(batches)
        seconds = time.perf_counter() - start[0], time.process_time() - start[1]
        batches.close()
        return seconds

    return read


def torchvisions(python: str, photos: Path) -> Callable[[int], tuple[float, float]]:
    """The same of torchvision's DataLoader, in a process of its own that is idle in between."""
    script = Path(__file__).with_name("bench_loader_torch.py")
    process = subprocess.Popen(
        [python, str(script), str(photos), str(BATCH)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def read(count: int) -> tuple[float, float]:
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise ValueError(f"{python} has no torchvision that works: see above")
        return tuple(map(float, line.split()))

    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", help="a directory of photos; by default the demo's")
    parser.add_argument("--torch", help="a Python that has torchvision")
    parser.add_argument("--images", type=int, default=950)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    count = options.images // BATCH
    with tempfile.TemporaryDirectory() as directory:
        photos, prepared = Path(directory, "photos"), Path(directory, "prepared")
        make_photos(photos, options.photos, options.images)
        prepare.prepare(folder.list_folder(photos), prepared, shrinking=Shrinking(256))
        reading = options.threads, options.workers
        ways = {
            f"JPEG files, resize={resize}": ours(*reading, folder=str(photos), resize=resize)
            for resize in ("antialias", "fast", "published")
        }
        ways["prepared, short side 256"] = ours(*reading, tfds_dir=str(prepared))
        if options.torch:
            ways["torchvision, JPEG files"] = torchvisions(options.torch, photos)
        else:
            print("without torchvision: give --torch=PYTHON")
        seconds = {name: [] for name in ways}
        for round_, (name, read) in itertools.product(range(options.rounds + 1), ways.items()):
            taken = read(count)
            if round_:  # the first warms up
                seconds[name].append(taken)
    print(
        f"{available_cores()} core(s), {options.threads} thread(s), {options.workers} worker(s); "
        f"{options.rounds} rounds of {count * BATCH} images of {SIZE[0]} x {SIZE[1]}"
    )
    print(f"{'':28}  images/s   range      by processor time")
    for name, taken in seconds.items():
        wall, cpu = ([count * BATCH / t for t in times] for times in zip(*taken, strict=True))
        print(
            f"{name:28}  {statistics.median(wall):7.0f}   {min(wall):.0f}-{max(wall):.0f}"
            f"   {statistics.median(cpu):7.0f}"
        )


if __name__ == "__main__":
    main()
