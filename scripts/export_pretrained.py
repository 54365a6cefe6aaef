"""Puts a run's averaged weights into the package, in fp16, with measured figures in their card.

    python scripts/export_pretrained.py --run=runs/photos_small --photos=DIR

Takes the run's best checkpoint, or with --step one of its others. All photos of DIR (none of which
may be in the training data) are reconstructed with the exported file, not with the run's weights.
"""

import dataclasses
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpstoken_jax import Tokenizer
from gpstoken_jax.metrics.catalogue import format_number
from gpstoken_jax.programs import cli
from gpstoken_jax.runtime.files import write_file
from gpstoken_jax.runtime.run_directory import RunDirectory
from gpstoken_jax.weights import pretrained
from gpstoken_jax.weights.files import read_specs

ROOT = Path(__file__).resolve().parents[1]
RUN = flags.DEFINE_string("run", None, "The run's directory.", required=True)
STEP = flags.DEFINE_integer("step", None, "Which of its checkpoints; the best by default.")
PHOTOS = flags.DEFINE_string("photos", None, "Held-out photos to measure.", required=True)
OUTPUT = flags.DEFINE_string(
    "output", "gpstoken_jax/pretrained/photos-small", "Where the weights go; its end is their name."
)
SIZES = flags.DEFINE_list("resolution", ["64", "128"], "Sizes to measure, in tiles of 64 pixels.")
STEPS_BEFORE = flags.DEFINE_integer(
    "steps_before", 0, "Steps of the weights that the run began from (--init_from)."
)
HOURS_BEFORE = flags.DEFINE_float("hours_before", 0.0, "Hours that those had taken.")
NOTES = flags.DEFINE_string("notes", None, "A file of Markdown for the card's end: what was seen.")

CARD = """# {name}

The GPSToken tokenizer in small, for photos of {side} × {side} pixels: {tokens} tokens of {width}
values ({values} an image). {parameters:,} parameters in fp16, {megabytes:.1f} MB. Larger photos, of
whole tiles of {side} pixels, are encoded tile by tile.

```python
from PIL import Image

from gpstoken_jax import Tokenizer, data

tokenizer = Tokenizer.from_pretrained("{name}")
photo = Image.open("photo.jpg").convert("RGB")
photo = data.resize_and_crop(photo, {side}, resize="antialias")
tokens = tokenizer.encode(photo)  # [{tokens}, {width}]
again = tokenizer.decode(tokens, uint8=True)
```

## Training

    {command}

Step {step:,} of {batch} images, {hours:.1f} hours of one CPU thread, from scratch with this code.
Optimizer {optimizer}; loss {losses}; random crops of {low:.0%} to {high:.0%} of a photo's area,
mirrored.

## Data and licences

The weights are under this project's licence, Apache-2.0. The photos that they were trained on are
not part of it:

- 304 photos of Debian packages: gcompris-qt-data (GPL-3 and others), scratch (CC-BY-SA-3.0),
  tuxpaint-data, mate-backgrounds, plasma-workspace-wallpapers, lxqt-themes, palapeli-data (GPL-2+),
  lomiri-wallpapers (CC-BY and CC-BY-SA 4.0);
- 14 photos that scikit-image and scikit-learn ship, by the licences that those packages state: the
  `_TRAIN` list of `gpstoken_jax/data/demo.py`. Its four others (chelsea, flower, gravel, rocket)
  were never trained on: the demo shows those.

## Metrics

{count} photos of the same packages that were not trained on, with the exported fp16 file:

{table}

    {evaluation}

Bicubic holds as many float values as the tokens. JPEG and WebP may spend two bytes for each of
those values, which tokens do not need: the same at equal bytes is under "Bits" in `docs/tokens.md`.

## Limits

Few photos, few parameters, hours of one CPU thread: texture finer than a token blurs, faces and
letters that are small in the picture are not kept. Photos only: drawings, printed text and
screenshots were not trained on (one of the photos shows handwriting). Not for comparison with the
published models, which are 65 times larger and were trained on ImageNet at 256 pixels.
"""
ROWS = {"model": "this", "bicubic": "bicubic", "jpeg": "JPEG", "webp": "WebP"}
METRICS = ("psnr", "ssim", "lpips", "bytes")


def main() -> None:
    """Exports, measures and writes the card."""
    run, output = RunDirectory(Path(RUN.value).expanduser()), Path(OUTPUT.value)
    root = run.root if STEP.value else run.best
    tokenizer = Tokenizer.from_pretrained(root, step=STEP.value)
    tokenizer.config.data.update(folder=None, tfds_dir=None, tfds_name=None)  # of that machine
    tokenizer.config.eval.high_resolution = "blended"  # runs begun before there was that way
    if "init" in tokenizer.config:
        tokenizer.config.init.source = None
    time = HOURS_BEFORE.value + hours(run, tokenizer.step)
    tokenizer = dataclasses.replace(tokenizer, step=tokenizer.step + STEPS_BEFORE.value)
    tokenizer.save_pretrained(output, dtype="float16")
    size = (output / pretrained.WEIGHTS).stat().st_size
    print(f"step {tokenizer.step}: {output / pretrained.WEIGHTS}, {size / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [*evaluation(str(output), PHOTOS.value), f"--output={folder}"], cwd=ROOT, check=True
        )
        results = [
            json.loads(file.read_text()) for file in sorted(Path(folder).rglob("metrics.json"))
        ]
    text = card(tokenizer.config, tokenizer.step, time, size, results)
    if NOTES.value:
        text += f"\n{Path(NOTES.value).read_text().strip()}\n"
    write_file(output / pretrained.CARD, text)
    print(f"card: {output / pretrained.CARD}")


def evaluation(checkpoint: str, photos: str) -> list[str]:
    """The command that measures."""
    return [
        *(sys.executable, "eval.py", f"--checkpoint={checkpoint}", f"--data.folder={photos}"),
        *(f"--resolution={','.join(SIZES.value)}", "--frechet=false", "--report_images=0"),
    ]


def hours(run: RunDirectory, step: int) -> float:
    """Training time until a step, as the run's log has it."""
    lines = map(json.loads, run.metrics.read_text().splitlines())
    return (
        max(x["train_seconds"] for x in lines if "train_seconds" in x and x["step"] <= step) / 3600
    )


def card(config: ConfigDict, step: int, hours: float, size: int, results: list[dict]) -> str:
    """The model card."""
    name, loss, rates = Path(OUTPUT.value).name, config.loss, config.optimizer
    config_file = f"{name.replace('-', '_')}.py"
    low, high = config.data.crop_scale
    shown = evaluation(name, "DIR")
    width = 5 + config.model.feature_channels
    losses = [f"{loss.mse_weight:g} × MSE"]
    losses += [f"{loss.lpips_weight:g} × LPIPS"] if loss.lpips_weight else []
    return CARD.format(
        name=name,
        side=config.model.image_size,
        tokens=config.partition.num_tokens,
        width=width,
        values=width * config.partition.num_tokens,
        parameters=count_values(Path(OUTPUT.value)),
        megabytes=size / 1e6,
        command=f"python train.py --config=configs/{config_file} --workdir=RUN --data.folder=DIR",
        step=step,
        batch=config.train.batch_size,
        hours=hours,
        optimizer=f"{rates.name}, {rates.decay} rate {rates.learning_rate:g}",
        losses=" + ".join(losses),
        low=low,
        high=high,
        count=results[0]["protocol"]["num_images"],
        table=table(results),
        evaluation=" ".join(["python", *shown[1:]]),
    )


def count_values(folder: Path) -> int:
    """Values of a folder of weights."""
    specs = read_specs(folder / pretrained.WEIGHTS).values()
    return sum(math.prod(spec.shape) for spec in specs)


def table(results: list[dict]) -> str:
    """Means of all methods at all sizes, in Markdown."""
    lines = [
        "| pixels | tokens | method | PSNR | SSIM | LPIPS | bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in sorted(results, key=lambda one: one["protocol"]["num_tokens"]):
        protocol = result["protocol"]
        for method, metrics in result["metrics"].items():
            numbers = [format_number(n, metrics[n]) for n in METRICS]
            lead = (protocol["size"].replace("x", "×"), protocol["num_tokens"], ROWS[method])
            lines.append(f"| {' | '.join(map(str, [*lead, *numbers]))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
