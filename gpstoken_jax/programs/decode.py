"""Makes images of tokens that encode.py wrote.

gpstoken decode --checkpoint=runs/m128 --tokens=tokens/m128 --output=images
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from gpstoken_jax.programs import cli

if not cli.asks_for_help():  # which needs no JAX
    from gpstoken_jax.data.images import EXTENSIONS, encode_png
    from gpstoken_jax.data.transforms import to_uint8
    from gpstoken_jax.runtime import checkpoint
    from gpstoken_jax.runtime.checkpoint import params_checksum
    from gpstoken_jax.runtime.file_names import file_names
    from gpstoken_jax.runtime.outputs import first_difference, open_output
    from gpstoken_jax.runtime.progress import Progress
    from gpstoken_jax.runtime.run_directory import RunDirectory, read_config
    from gpstoken_jax.tokenizer import Tokenizer
    from gpstoken_jax.tokens import TokenDataset, TokensError, open_tokens
    from gpstoken_jax.weights import pretrained

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "The run's directory, e.g. runs/tiny.", required=True
)
STEP = flags.DEFINE_integer("step", None, "Which of its checkpoints; that of the tokens, if None.")
WEIGHTS = flags.DEFINE_enum(
    "weights", "ema_params", ["ema_params", "params"], "Averaged weights, or the last ones."
)
TOKENS = flags.DEFINE_string(
    "tokens", None, "A directory that encode.py wrote, or a file of the viewer.", required=True
)
OUTPUT = flags.DEFINE_string("output", None, "Where the PNG files go.", required=True)
ROUNDING = flags.DEFINE_enum(
    "rounding", "round", ["round", "truncate"], "To 8 bits: nearest, or down as the release does."
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace images of other tokens or settings.")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Images at a time; the config's by default.", lower_bound=1
)


def main() -> None:
    """Decodes every image of a token data set."""
    tokens = open_tokens(TOKENS.value)
    root, step = pretrained.find(CHECKPOINT.value), STEP.value
    if pretrained.is_work_directory(root):
        run = RunDirectory(pretrained.split_step(root, step)[0])
        check_model(tokens, read_config(run))
        step = choose_step(tokens, run)
    tokenizer = Tokenizer.from_pretrained(root, step=step, weights=WEIGHTS.value)
    check_model(tokens, tokenizer.config)
    tell_other_weights(tokens, tokenizer)
    batch_size = BATCH_SIZE.value or tokenizer.config.eval.batch_size
    print(f"{CHECKPOINT.value} step {tokenizer.step}; {len(tokens)} images in {TOKENS.value}")
    made_from = {
        "tokens": tokens.fingerprint(),
        "step": tokenizer.step,
        "weights": WEIGHTS.value,
        "weights_crc32": params_checksum(tokenizer.params),
        "rounding": ROUNDING.value,
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
    size = tuple(tokens.header.get("image_size", ())) or None
    progress = Progress(sum(len(files[start : start + batch_size]) for start in todo))

    def write(name: str, pixels: np.ndarray) -> None:
        output.write(name, encode_png(pixels), durable=False)

    with output, ThreadPoolExecutor() as pool:
        for start in todo:
            rows, _ = tokens.read(start, start + batch_size)
            batch = np.concatenate([rows["geometry"], rows["features"]], axis=-1)
            filler = [(0, batch_size - len(batch)), (0, 0), (0, 0)]
            padded = np.pad(batch, filler, mode="edge")
            images = tokenizer.decode(padded, image_size=size)[: len(batch)]
            list(
                pool.map(write, files[start : start + batch_size], to_uint8(images, ROUNDING.value))
            )
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


def choose_step(tokens: TokenDataset, run: RunDirectory) -> int:
    """The step of the flags, else that of the tokens."""
    if STEP.value is not None:
        return STEP.value
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
