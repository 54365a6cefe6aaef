r"""Makes images of classes: a layout, its texture, the image.

    gpstoken generate --generator=runs/sit --tokenizer=runs/m128 --layouts=runs/layout \
        --classes=cat,dog --count=8 --output=made

--layouts is a run of stage 1 or a file of layouts; --layout_image takes the layout of a photo. The
same command again goes on where it was interrupted. What it writes: see docs/generation.md.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from gpstoken_jax.programs import cli

if not cli.asks_for_help():  # which needs no JAX
    import jax

    from gpstoken_jax.data.images import encode_png
    from gpstoken_jax.data.resize import resize_of
    from gpstoken_jax.data.transforms import to_uint8
    from gpstoken_jax.generation.guidance import Guidance
    from gpstoken_jax.generation.layouts import LayoutSampler, open_layouts
    from gpstoken_jax.generation.layouts.photo import PhotoSampler
    from gpstoken_jax.generation.samplers import Sampler
    from gpstoken_jax.generation.sit import create_sit
    from gpstoken_jax.generator import NO_CLASS, Generator, Pipeline, takes_layouts_in_turn
    from gpstoken_jax.runtime import processes
    from gpstoken_jax.runtime.buckets import as_given
    from gpstoken_jax.runtime.checkpoint import params_checksum
    from gpstoken_jax.runtime.file_names import folder_names
    from gpstoken_jax.runtime.files import sealed_json
    from gpstoken_jax.runtime.outputs import Output, open_output
    from gpstoken_jax.runtime.progress import Progress
    from gpstoken_jax.runtime.text import say
    from gpstoken_jax.tokenizer import Tokenizer
    from gpstoken_jax.weights import pretrained
from gpstoken_jax.tokens import TokenWriter, visualize

METHODS = ["ode_euler", "ode_midpoint", "ode_heun", "ode_rk4"]
METHODS += ["ode_dopri5", "sde_euler", "sde_heun"]
LAST_STEPS = ["mean", "tweedie", "euler", "none"]
GENERATOR = flags.DEFINE_string("generator", None, "The run of stage 2.", required=True)
TOKENIZER = flags.DEFINE_string("tokenizer", None, "The tokenizer's run.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Where everything goes.", required=True)
LAYOUTS = flags.DEFINE_string("layouts", None, "A run of stage 1, or a file of layouts.")
cli.allow_buckets("output", "generator", "tokenizer", "layouts")
IN_TURN = flags.DEFINE_bool(
    "in_turn",
    None,
    "Take each layout of a file once, the last of a class first, as published; by default as the "
    "run's config says.",
)
LAYOUT_IMAGE = flags.DEFINE_string("layout_image", None, "A photo whose layout all images get.")
CLASSES = flags.DEFINE_string(
    "classes", "all", 'Names or numbers of classes; one with a comma as "CATS, ASLEEP" in quotes.'
)
COUNT = flags.DEFINE_integer("count", 8, "Images a class.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Image i of a class and a seed is always the same.")
METHOD = flags.DEFINE_enum("method", None, METHODS, "Of sampling; the run's by default.")
STEPS = flags.DEFINE_integer("steps", None, "Of sampling; the run's by default.", lower_bound=2)
LAST_STEP = flags.DEFINE_enum(
    "last_step",
    "mean",
    LAST_STEPS,
    "Of an SDE, without noise: its drift (mean), the estimate of the data (tweedie), a step of the "
    "ODE (euler), or none.",
)
SCALE = flags.DEFINE_float("guidance_scale", None, "1 is no guidance; the run's by default.")
INTERVAL = flags.DEFINE_list(
    "guidance_interval", None, "From and to which time there is guidance; 0 is noise, 1 the image."
)
NUM_TOKENS = flags.DEFINE_integer(
    "num_tokens", None, "Tokens an image; as the generator was trained by default.", lower_bound=1
)
ROUNDING = flags.DEFINE_enum(
    "rounding", "round", ["round", "truncate"], "To 8 bits: nearest, or down as the release does."
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace images of other runs or settings.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images at a time.", lower_bound=1)
WEIGHTS = flags.DEFINE_enum(
    "weights", "ema_params", ["ema_params", "params"], "Averaged weights, or the last ones."
)

_GRID_COLUMNS, _GRID_ROWS = 8, 16


def main() -> None:
    """Samples images of every class that the flags name."""
    if config := pretrained.peek_config(GENERATOR.value, "sit"):
        read_classes(Generator(create_sit(config.model), None, config))  # before what takes long
    generator = Generator.from_pretrained(GENERATOR.value, weights=WEIGHTS.value)
    labels = read_classes(generator)
    tokenizer = Tokenizer.from_pretrained(TOKENIZER.value)
    layouts = open_stage1(generator, tokenizer)
    sampler, guidance = sampling(generator)
    pipeline = Pipeline(
        generator,
        tokenizer,
        layouts,
        sampler,
        guidance,
        seed=SEED.value,
        batch_size=BATCH_SIZE.value,
    )
    generator.check_layouts(layouts, labels, COUNT.value)
    settings = describe(generator, tokenizer, layouts, sampler, guidance, labels)
    names = ImageNames(generator)
    images, writer = processes.in_first(
        lambda: open_outputs(settings, labels, layouts, OVERWRITE.value)
    ) or open_outputs(settings, labels, layouts, False)
    todo = sorted(
        {*writer.unfinished()}
        | {
            shard
            for shard, positions in enumerate(writer.shards)
            if not all(images.has(names(labels, position)) for position in positions)
        }
    )
    say(f"{len(labels)} class(es), {COUNT.value} images each; layouts: {layouts.description}")
    if done := len(writer.shards) - len(todo):
        print(f"{done} of {len(writer.shards)} batches are there already")

    # ---- Batch by batch -------------------------------------------------------------------------
    progress = Progress(sum(len(writer.shards[shard]) for shard in todo))
    started, evaluations = time.perf_counter(), 0

    def write(name: str, pixels: np.ndarray) -> None:
        images.write(name, encode_png(pixels), durable=False)

    with ThreadPoolExecutor() as pool:
        for shard in todo:
            positions = np.array(writer.shards[shard])
            of, numbers = np.array(labels)[positions // COUNT.value], positions % COUNT.value
            made = pipeline(of, numbers)
            pixels = to_uint8(made.pop("image"), ROUNDING.value)
            files = [names(labels, position) for position in writer.shards[shard]]
            list(pool.map(write, files, pixels))
            evaluations += int(made.pop("evaluations").sum())
            size = np.tile(pixels.shape[1:3], (len(pixels), 1))
            writer.write(
                shard, {**made, "label": of, "size": size, "position": positions}, files, {}
            )
            progress.advance(len(positions))
    seconds = time.perf_counter() - started

    # ---- The index of the tokens, what was done, and a look at it -------------------------------
    if not processes.is_primary_process():
        images.close()
    processes.wait_for_all("images written")
    if processes.is_primary_process():
        images.gather()
        writer.finish({})
        if progress.total or not images.has("generation.json"):
            report(images, settings, progress.total, evaluations, seconds)
        if progress.total or not images.complete:
            images.write("grid.png", encode_png(grid(images.directory, names, labels)))
            images.finish({"images": len(labels) * COUNT.value})
        print(f"{len(labels) * COUNT.value} images in {OUTPUT.value}; see grid.png")
    images.close()


def read_classes(generator: Generator) -> list[int]:
    """The labels of the flag, each once; names count as they are, else without spaces around."""
    (given,) = csv.reader(io.StringIO(CLASSES.value, newline=""), strict=True)
    known = set(generator.label_names)
    classes = [name if name in known else name.strip() for name in given]
    return list(dict.fromkeys(generator.labels(classes)))


def open_outputs(
    settings: dict, labels: list[int], layouts: LayoutSampler, overwrite: bool
) -> tuple[Output, TokenWriter]:
    """The directory of the images and, in it, that of their tokens."""
    places = ("checkpoint", "data")
    depends = {key: value for key, value in settings.items() if key not in places}
    depends["generator"] = depends["generator"] | {"layouts": layouts.fingerprint}
    inputs = [path for path in (LAYOUTS.value, LAYOUT_IMAGE.value) if path]
    images = open_output(
        OUTPUT.value,
        "generated images",
        depends | {"rounding": ROUNDING.value},
        inputs=inputs,
        overwrite=overwrite,
        process=jax.process_index(),
    )
    writer = TokenWriter(
        images.directory / "tokens",
        settings,
        len(labels) * COUNT.value,
        shard_size=BATCH_SIZE.value,
        made_from={"layouts": layouts.fingerprint},
        overwrite=overwrite,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    images.share()
    return images, writer


class ImageNames:
    """Paths of images, below the output directory."""

    def __init__(self, generator: Generator):
        own = ("tokens", "grid.png", "generation.json")
        names = [*generator.label_names, generator.label_name(NO_CLASS)]
        self._folders = folder_names(names, taken=own)  # label -1 finds the last

    def __call__(self, labels: list[int], position: int) -> str:
        """The name of image ``position`` of all the images of some labels."""
        return self.of_class(labels[position // COUNT.value], position % COUNT.value)

    def of_class(self, label: int, number: int) -> str:
        """Path of a class's image."""
        return f"{self._folders[label]}/{number:06d}.png"


def open_stage1(generator: Generator, tokenizer: Tokenizer) -> LayoutSampler:
    """Opens the source of layouts.

    Raises:
      ValueError: if not exactly one place is given.
    """
    if (LAYOUTS.value is None) == (LAYOUT_IMAGE.value is None):
        raise ValueError("give one of --layouts=RUN_OR_FILE and --layout_image=PHOTO")
    num_tokens = NUM_TOKENS.value or generator.model.num_tokens
    if LAYOUTS.value is not None:
        in_turn = IN_TURN.value
        if in_turn is None:
            in_turn = takes_layouts_in_turn(generator.config)
        return open_layouts(LAYOUTS.value, num_tokens=num_tokens, in_turn=in_turn)
    config = tokenizer.config
    return PhotoSampler(
        LAYOUT_IMAGE.value,
        config.model.image_size,
        num_tokens,
        config.partition,
        resize_of(config.data),
    )


def sampling(generator: Generator) -> tuple[Sampler, Guidance]:
    """Sampler and guidance of the flags, else of the run.

    Raises:
      ValueError: if they are not what they must be.
    """
    interval = None
    if INTERVAL.value:
        try:
            low, high = map(float, INTERVAL.value)
        except ValueError as error:
            raise ValueError(
                f"--guidance_interval must be two times, not {','.join(INTERVAL.value)!r}"
            ) from error
        interval = low, high
    sampler = generator.sampler(METHOD.value, STEPS.value, LAST_STEP.value)
    return sampler, generator.guidance(SCALE.value, interval)


def describe(
    generator: Generator,
    tokenizer: Tokenizer,
    layouts: LayoutSampler,
    sampler: Sampler,
    guidance: Guidance,
    labels: list[int],
) -> dict:
    """The header of the tokens: what the images depend on."""
    partition = {**tokenizer.config.partition.to_dict(), "num_tokens": layouts.num_tokens}
    return {
        "checkpoint": TOKENIZER.value,
        "step": tokenizer.step,
        "weights": "ema_params",
        "weights_crc32": params_checksum(tokenizer.params),
        "model": tokenizer.config.model.to_dict(),
        "partition": partition,
        "data": f"generated by {GENERATOR.value}",
        "label_names": list(generator.label_names),
        "generator": {
            "step": generator.step,
            "weights": WEIGHTS.value,
            "weights_crc32": params_checksum(generator.params),
            "layouts": as_given(layouts.description),
            "sampler": dataclasses.asdict(sampler),
            "guidance": dataclasses.asdict(guidance),
            "seed": SEED.value,
            "classes": [generator.label_name(label) for label in labels],
            "count": COUNT.value,
        },
    }


def report(images: Output, settings: dict, made: int, evaluations: int, seconds: float) -> None:
    """Writes generation.json: the settings, and how this run fared."""
    fared = {
        "images_made": made,
        "evaluations_per_image": evaluations / made if made else None,
        "images_per_second": made / seconds if made else None,  # with compilation
        "device": jax.devices()[0].device_kind,
    }
    images.write("generation.json", sealed_json({**settings, "last_run": fared}))
    if made:
        print(
            f"{fared['evaluations_per_image']:.0f} evaluations of the network an image, "
            f"{fared['images_per_second']:.2f} images/s"
        )


def grid(directory: Path, names: ImageNames, labels: list[int]) -> np.ndarray:
    """A row a class, as the files have it."""
    count = min(COUNT.value, _GRID_COLUMNS)
    return visualize.image_grid(
        [
            [np.asarray(Image.open(directory / names.of_class(label, i))) for i in range(count)]
            for label in labels[:_GRID_ROWS]
        ]
    )


if __name__ == "__main__":
    cli.run(main)
