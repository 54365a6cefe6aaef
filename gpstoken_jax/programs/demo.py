"""Shows what tokens make of photos, before and after two minutes of fine-tuning on them.

    gpstoken demo --output=runs/demo
    gpstoken demo --photos=DIR --output=runs/demo

Starts from weights that ship with this package. It learns from the left half of every photo;
all figures and pictures are of the right half, which it does not see. Without --photos it takes
four that scikit-image and scikit-learn ship and that the weights were not trained on. The same
command again fine-tunes two minutes more.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from absl import flags

from gpstoken_jax.programs import cli

if not cli.asks_for_help():  # which needs no JAX
    from gpstoken_jax.configs import photos_small
    from gpstoken_jax.data import demo_crops
    from gpstoken_jax.programs import demo_page
    from gpstoken_jax.runtime.outputs import open_output
    from gpstoken_jax.tokenizer import Tokenizer
    from gpstoken_jax.training.conversion import import_weights

PHOTOS = flags.DEFINE_string("photos", None, "A folder of your own photos.")
OUTPUT = flags.DEFINE_string("output", None, "Where the report and the run go.", required=True)
SECONDS = flags.DEFINE_integer("seconds", 120, "How long it is fine-tuned.", lower_bound=0)
WEIGHTS = "photos-small"
STOPPED = 75  # of train.py: it saved and stopped
FIRST_STEP = "first step after"  # says train.py once it is compiled


def main() -> None:
    """Reconstructs, fine-tunes, reconstructs again, and writes the report."""
    began = time.perf_counter()
    photos = demo_crops.read_photos(PHOTOS.value)
    inputs = [PHOTOS.value] if PHOTOS.value else []
    with open_output(OUTPUT.value, "demo", {}, inputs=inputs) as output:
        page, sentence = make(photos, output.directory)
        output.write("report.html", page)
        output.finish()
    print(sentence)
    print(f"{time.perf_counter() - began:.0f} s; open {output.directory / 'report.html'}")


def make(photos: dict[str, demo_crops.Photo], output: Path) -> tuple[bytes, str]:
    """Makes the report and its sentence; the run goes into a directory of the output."""
    folder = demo_crops.write_crops(photos, output)
    print(f"[1/3] {len(photos)} photo(s) in {WEIGHTS}'s tokens: {', '.join(list(photos)[:6])}")
    tokenizer = Tokenizer.from_pretrained(WEIGHTS)
    side = tokenizer.image_size
    shown, others = demo_crops.held_out(photos, side), demo_crops.fitting_crops(photos, side)
    before = demo_page.reconstruct(tokenizer, shown.images, others)
    print(demo_page.describe(before))

    after, steps = None, 0
    if SECONDS.value:
        print(f"[2/3] fine-tuning for {SECONDS.value} s on the left half of every photo")
        run = folder / "run"
        if not (run / "checkpoints").is_dir():
            import_weights(WEIGHTS, None, run)
        fine_tune(run, folder / "photos", SECONDS.value)
        tuned = Tokenizer.from_pretrained(run)
        after, steps = demo_page.reconstruct(tuned, shown.images, others), tuned.step
        print(demo_page.describe(after))

    print("[3/3] the report")
    page = demo_page.page(shown, before, after, steps, own=PHOTOS.value is not None)
    return b"".join(page), demo_page.headline(before, after, steps)


def fine_tune(run: Path, photos: Path, seconds: int) -> None:
    """Trains for so many seconds after compilation.

    Raises:
      ValueError: if the training fails; it says itself why.
    """
    options = {
        "optimizer.learning_rate": 5e-4,
        "ema.decay": 0.98,
        "ema.update_after": 0,
        "data.num_threads": 0,
        "data.crop_scale": (0.15, 1.0),
        "eval.every_steps": 0,
        "checkpoint.every_steps": 0,
        "checkpoint.best_metric": "",
        "log.every_steps": 20,
        "log.images_every_steps": 0,
    }
    command = [sys.executable, "-m", "gpstoken_jax", "train", f"--config={photos_small.__file__}"]
    command += [f"--workdir={run}", f"--data.folder={photos}"]
    command += [f"--config.{name}={value}" for name, value in options.items()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        clock, ends = threading.Timer(seconds, process.terminate), None
        for line in process.stdout:
            if line.startswith(FIRST_STEP):
                clock.start()
                ends = time.perf_counter() + seconds
            if shown := demo_page.shorten(
                line.rstrip(), ends and max(0, ends - time.perf_counter())
            ):
                print(f"      {shown}", flush=True)
        clock.cancel()
    if process.returncode not in (0, STOPPED):
        raise ValueError(f"the fine-tuning stopped with exit code {process.returncode}, see above")


if __name__ == "__main__":
    cli.run(main)
