"""Makes images of tokens that gpstoken encode wrote.

gpstoken decode --checkpoint=runs/m128 --tokens=tokens/m128 --output=images
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from gpstoken_jax.programs import cli, image_flags

if not cli.asks_for_help():  # which needs no JAX
    from gpstoken_jax.data.images import EXTENSIONS, encode_png
    from gpstoken_jax.data.resize import parse_size
    from gpstoken_jax.data.transforms import to_uint8
    from gpstoken_jax.model.tiles import tile_grid
    from gpstoken_jax.runtime import checkpoint
    from gpstoken_jax.runtime.checkpoint import params_checksum
    from gpstoken_jax.runtime.file_names import file_names
    from gpstoken_jax.runtime.fingerprints import first_difference
    from gpstoken_jax.runtime.outputs import open_output
    from gpstoken_jax.runtime.progress import Progress
    from gpstoken_jax.runtime.run_directory import RunDirectory
    from gpstoken_jax.runtime.text import say
    from gpstoken_jax.tokenizer import Tokenizer
    from gpstoken_jax.tokens import TokenDataset, TokensError, open_tokens
    from gpstoken_jax.weights import pretrained

MODEL = image_flags.define_checkpoint_flags("that of the tokens by default")
DECODING = image_flags.define_decoding_flags("round")
RESOLUTION = flags.DEFINE_string(
    "resolution", None, "Size of the images, a side or HEIGHTxWIDTH; that of the tokens by default."
)
TOKENS = flags.DEFINE_string(
    "tokens", None, "A directory that encode wrote, or a file of the viewer.", required=True
)
OUTPUT = flags.DEFINE_string("output", None, "Where the PNG files go.", required=True)
cli.allow_buckets("tokens", "output")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace images of other tokens or settings.")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Images at a time; the config's by default.", lower_bound=1
)


def main() -> None:
    """Decodes every image of a token data set."""
    tokens = open_tokens(TOKENS.value)
    tokenizer = MODEL.load(choose_step(tokens))
    check_model(tokens, tokenizer.config)
    tell_other_weights(tokens, tokenizer)
    size = image_size(tokens, tokenizer)
    tiles = math.prod(tile_grid(*size, tokenizer.image_size))
    batch_size = BATCH_SIZE.value or max(1, tokenizer.config.eval.batch_size // tiles)
    say(f"{MODEL.checkpoint.value} step {tokenizer.step}; {len(tokens)} images in {TOKENS.value}")
    rounding = DECODING.rounding.value
    made_from = {
        "tokens": tokens.fingerprint(),
        "step": tokenizer.step,
        "weights": MODEL.weights.value,
        "weights_crc32": params_checksum(tokenizer.params),
        "rounding": rounding,
        **describe_way(size, tokenizer),
    }
    output = open_output(
        OUTPUT.value, "decoded images", made_from, inputs=[TOKENS.value], overwrite=OVERWRITE.value
    )
    files = file_names(tokens.names(), ".png", EXTENSIONS)
    todo = [
        start
        for start in range(0, len(tokens), batch_size)
        if not all(map(output.has, files[start : start + batch_size]))
    ]
    if done := len(range(0, len(tokens), batch_size)) - len(todo):
        print(f"{done} of {done + len(todo)} batches are there already")

    # ---- Batches of one shape: the last one is filled up ----------------------------------------
    progress = Progress(sum(len(files[start : start + batch_size]) for start in todo))

    def write(name: str, pixels: np.ndarray) -> None:
        output.write(name, encode_png(pixels), durable=False)

    with output, ThreadPoolExecutor() as pool:
        for start in todo:
            rows, _ = tokens.read(start, start + batch_size)
            batch = np.concatenate([rows["geometry"], rows["features"]], axis=-1)
            filler = [(0, batch_size - len(batch)), (0, 0), (0, 0)]
            padded = np.pad(batch, filler, mode="edge")
            images = tokenizer.decode(padded, image_size=size, high_resolution=DECODING.way())
            pixels = to_uint8(images[: len(batch)], rounding)
            list(pool.map(write, files[start : start + batch_size], pixels))
            progress.advance(len(batch))
        if not output.complete:
            output.finish({"images": len(files)})
    print(f"{len(tokens)} images in {OUTPUT.value}")


def check_model(tokens: TokenDataset, config: ConfigDict) -> None:
    """Refuses tokens of another model."""
    ours = json.loads(json.dumps(config.model.to_dict()))
    theirs = {**tokens.header["model"], "dtype": ours["dtype"]}
    if difference := first_difference(theirs, ours, "model"):
        raise TokensError(f"{TOKENS.value} has tokens of another model: {difference}")


def image_size(tokens: TokenDataset, tokenizer: Tokenizer) -> tuple[int, int]:
    """The size of the flags, else that of the tokens, else the model's."""
    if RESOLUTION.value:
        return parse_size(RESOLUTION.value)
    return tuple(tokens.header.get("image_size", (tokenizer.image_size,) * 2))


def describe_way(size: tuple[int, int], tokenizer: Tokenizer) -> dict[str, Any]:
    """Entries of ``made_from`` of images of several tiles: their size and way."""
    if size == (tokenizer.image_size,) * 2:
        return {}
    way = DECODING.way() or tokenizer.config.eval.get("high_resolution", "merged")
    return {"image_size": list(size), "high_resolution": way}


def choose_step(tokens: TokenDataset) -> int | None:
    """The step of the tokens; None for weights that are no run of several.

    Raises:
      TokensError: if the run no longer has it, and the flags name no other.
    """
    path = pretrained.find(MODEL.checkpoint.value, MODEL.step.value or tokens.header["step"])
    if not pretrained.is_work_directory(path):
        return None
    root, asked = pretrained.split_step(path, MODEL.step.value)
    if asked is not None:
        return None  # the flag or the path says it
    run = RunDirectory(root)
    step, there = tokens.header["step"], sorted(checkpoint.steps(run.checkpoints))
    if step not in there:
        raise TokensError(
            f"{TOKENS.value} has tokens of step {step}, and {run.root} has only "
            f"{', '.join(map(str, there)) or 'none'}: choose one with --step"
        )
    return step


def tell_other_weights(tokens: TokenDataset, tokenizer: Tokenizer) -> None:
    """Tells if the tokens are of other weights of this model."""
    if params_checksum(tokenizer.params) != tokens.header["weights_crc32"]:
        print(
            f"note: the tokens were made with other weights: {tokens.header['checkpoint']} step "
            f"{tokens.header['step']}, {tokens.header['weights']}"
        )


if __name__ == "__main__":
    cli.run(main)
