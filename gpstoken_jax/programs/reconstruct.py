"""Encodes images and decodes them again: what a tokenizer makes of each, beside the original.

    gpstoken reconstruct --checkpoint=GPSToken-M128 --images=DIR --output=OUT
    gpstoken reconstruct --checkpoint=runs/m128 --data.list=FILE --output=OUT --resolution=512x768

Writes OUT/imgs/NAME.png and, the same pixels as they went in, OUT/gt/NAME.png; with --show also
OUT/show/NAME.png, both beside pictures of the Gaussians. The same command again goes on where it
was interrupted.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from absl import flags

from gpstoken_jax.programs import cli, image_flags

if not cli.asks_for_help():  # which needs no JAX
    from gpstoken_jax import data
    from gpstoken_jax.data.images import EXTENSIONS, encode_png
    from gpstoken_jax.data.transforms import to_uint8
    from gpstoken_jax.runtime.checkpoint import params_checksum
    from gpstoken_jax.runtime.file_names import file_names
    from gpstoken_jax.runtime.outputs import Output, open_output
    from gpstoken_jax.runtime.progress import Progress
    from gpstoken_jax.runtime.text import say
    from gpstoken_jax.tokenizer import Tokenizer
    from gpstoken_jax.tokens import visualize

MODEL = image_flags.define_checkpoint_flags()
IMAGES = flags.DEFINE_string("images", None, "A directory of images: --data.folder.")
cli.allow_buckets("images")
IMAGE_FLAGS = image_flags.define_image_flags()
DECODING = image_flags.define_decoding_flags()
OUTPUT = flags.DEFINE_string("output", None, "Where the PNG files go.", required=True)
cli.allow_buckets("output")
SHOW = flags.DEFINE_list(
    "show",
    [],
    "Pictures beside each reconstruction, some of: initial (the partition's Gaussians), refined "
    "(the tokens' Gaussians), density (of tokens), error.",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace images of other data or settings.")
VERIFY = flags.DEFINE_bool(
    "verify", False, "Know images by their content, not by size and date; from the first call on."
)
PICTURES = ("initial", "refined", "density", "error")


def main() -> None:
    """Reconstructs every image of a data set."""
    if unknown := [name for name in SHOW.value if name not in PICTURES]:
        raise ValueError(f"--show={unknown[0]}: it can show {', '.join(PICTURES)}")
    tokenizer = MODEL.load()
    images = IMAGE_FLAGS.open(tokenizer.config, IMAGES.value)
    source, size = images.source, images.batch_size
    output = open_output(
        OUTPUT.value,
        "reconstructions",
        describe(tokenizer, images),
        inputs=data.data_paths(tokenizer.config.data),
        overwrite=OVERWRITE.value,
    )
    files = file_names([source.name(i) for i in range(len(source))], ".png", EXTENSIONS)
    folders = ("imgs", "gt", "show") if SHOW.value else ("imgs", "gt")

    def is_there(number: int) -> bool:
        return all(output.has(f"{folder}/{files[number]}") for folder in folders)

    height, width = images.size
    say(f"{MODEL.checkpoint.value} step {tokenizer.step}; {source.description}")
    say(f"{height} x {width} pixels, {images.tiles * images.num_tokens} tokens")

    # ---- Batches that are not there yet, each of the images that it always has ------------------
    starts = range(0, len(source), size)
    batch_at = {start: range(start, min(start + size, len(source))) for start in starts}
    todo = [start for start in starts if not all(map(is_there, batch_at[start]))]
    if done := len(starts) - len(todo):
        print(f"{done} of {len(starts)} batches are there already")
    positions = [number for start in todo for number in batch_at[start]]
    progress, batches = Progress(len(positions)), images.batches(positions)
    with output, ThreadPoolExecutor() as pool:
        for start, batch in zip(todo, batches, strict=True):
            rows = np.flatnonzero(batch["mask"])
            if not all(is_there(start + row) for row in rows):  # else one is unreadable, as before
                pictures = reconstruct(tokenizer, images, batch)
                names = [files[start + row] for row in rows]
                list(pool.map(partial(write, output), names, pictures))
            progress.advance(sum(name != "" for name in batch["name"]))
        unreadable = batches.unreadable.reasons
        if not output.complete:
            output.finish({"unreadable": unreadable})
    if unreadable:
        say(f"skipped {len(unreadable)} unreadable image(s): {', '.join(list(unreadable)[:5])}")
    say(f"{len(source) - len(unreadable)} images in {OUTPUT.value}: imgs/ beside gt/")
    say(f"measure: gpstoken eval --images={OUTPUT.value}/imgs --references={OUTPUT.value}/gt ...")


def describe(tokenizer: Tokenizer, images: image_flags.Images) -> dict[str, Any]:
    """Everything that the reconstructions depend on."""
    config = tokenizer.config
    return {
        "images": images.source.fingerprint(content=VERIFY.value),
        "resize": config.data.resize,
        "size": list(images.size),
        "step": tokenizer.step,
        "weights": MODEL.weights.value,
        "weights_crc32": params_checksum(tokenizer.params),
        "num_tokens": images.num_tokens,
        "high_resolution": DECODING.way() or config.eval.get("high_resolution", "merged"),
        "rounding": DECODING.rounding_of(config),
        **images.describe_way(),
    }


def reconstruct(
    tokenizer: Tokenizer, images: image_flags.Images, batch: dict[str, Any]
) -> list[dict[str, np.ndarray]]:
    """Pictures of the readable images of a batch, by folder."""
    tokens, layouts = images.encode(tokenizer, batch["image"])
    decoded = tokenizer.decode(tokens, high_resolution=DECODING.way())
    made = to_uint8(decoded, DECODING.rounding_of(tokenizer.config))
    given = to_uint8(batch["image"])
    rows = [{"imgs": made[i], "gt": given[i]} for i in np.flatnonzero(batch["mask"])]
    for row, i in zip(rows, np.flatnonzero(batch["mask"]), strict=True):
        if SHOW.value:
            row["show"] = draw(batch["image"][i], decoded[i], layouts[i], tokens[i])
    return rows


def draw(
    image: np.ndarray, decoded: np.ndarray, layout: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """Original, reconstruction and the pictures of ``--show`` in one row."""
    geometry = np.asarray(tokens[:, :5])
    makers = {
        "initial": lambda: visualize.draw_gaussians(image, layout),
        "refined": lambda: visualize.draw_gaussians(image, geometry),
        "density": lambda: visualize.draw_density(geometry, image.shape[:2]),
        "error": lambda: visualize.draw_error(image, decoded),
    }
    shown = list(dict.fromkeys(SHOW.value))
    row = [image, np.asarray(decoded), *(makers[name]() for name in shown)]
    return visualize.image_grid([row], titles=["original", "reconstruction", *shown])


def write(output: Output, name: str, pictures: dict[str, np.ndarray]) -> None:
    """Writes the pictures of one image."""
    for folder, pixels in pictures.items():
        output.write(f"{folder}/{name}", encode_png(pixels), durable=False)


if __name__ == "__main__":
    cli.run(main)
