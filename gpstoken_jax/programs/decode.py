"""Makes images of tokens that encode.py wrote.

gpstoken decode --checkpoint=runs/m128 --tokens=tokens/m128 --output=images
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from gpstoken_jax.data.images import EXTENSIONS, write_png
from gpstoken_jax.programs import cli
from gpstoken_jax.runtime import checkpoint
from gpstoken_jax.runtime.progress import Progress
from gpstoken_jax.runtime.run_directory import RunDirectory, Tokenizer, load_tokenizer, read_config
from gpstoken_jax.tokens import TokenDataset, TokensError, open_tokens
from gpstoken_jax.tokens.coding import BatchDecoder, checksum, to_pixels
from gpstoken_jax.tokens.format import as_json, first_difference

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "The run's directory, e.g. runs/tiny.", required=True
)
STEP = flags.DEFINE_integer("step", None, "Which of its checkpoints; that of the tokens, if None.")
WEIGHTS = flags.DEFINE_enum(
    "weights", "ema_params", ["ema_params", "params"], "Averaged weights, or the last ones."
)
TOKENS = flags.DEFINE_string("tokens", None, "A directory that encode.py wrote.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Where the PNG files go.", required=True)
ROUNDING = flags.DEFINE_enum(
    "rounding", "round", ["round", "truncate"], "To 8 bits: nearest, or down as the release does."
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Images at a time; the config's by default.", lower_bound=1
)


def main() -> None:
    tokens = open_tokens(TOKENS.value)
    run = RunDirectory(Path(CHECKPOINT.value))
    check_model(tokens, read_config(run))
    step = choose_step(tokens, run)
    tokenizer = load_tokenizer(CHECKPOINT.value, step=step, weights=WEIGHTS.value)
    tell_other_weights(tokens, tokenizer)
    batch_size = BATCH_SIZE.value or tokenizer.config.eval.batch_size
    print(f"{CHECKPOINT.value} step {step}; {len(tokens)} images in {TOKENS.value}")

    # ---- Batches of one shape: the last one is filled up ----------------------------------------
    decode, names = BatchDecoder(tokenizer), FileNames(Path(OUTPUT.value))
    progress = Progress(len(tokens))
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(tokens), batch_size):
            rows, given = tokens.read(start, start + batch_size)
            batch = np.concatenate([rows["geometry"], rows["features"]], axis=-1)
            filler = [(0, batch_size - len(batch)), (0, 0), (0, 0)]
            images = decode(np.pad(batch, filler, mode="edge"))[: len(batch)]
            paths = [names.path(name) for name in given]
            list(pool.map(write_png, paths, to_pixels(images, ROUNDING.value)))
            progress.advance(len(batch))
    print(f"{len(tokens)} images in {OUTPUT.value}")


def check_model(tokens: TokenDataset, config: ConfigDict) -> None:
    """Refuses tokens of another model."""
    ours = as_json(config.model.to_dict())
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
    if checksum(tokenizer.params) != tokens.header["weights_crc32"]:
        print(
            f"note: the tokens were made with other weights: {tokens.header['checkpoint']} step "
            f"{tokens.header['step']}, {tokens.header['weights']}"
        )


class FileNames:
    """Where an image of a given name goes: the name, as a PNG file below a directory."""

    def __init__(self, root: Path):
        self._root = root
        self._taken: set[Path] = set()

    def path(self, name: str) -> Path:
        """A path that no earlier name has got; never outside the directory."""
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")] or ["image"]
        path = self._root.joinpath(*parts)
        is_image = path.suffix.lower() in EXTENSIONS
        short, long = path.with_suffix(".png"), path.with_name(path.name + ".png")
        candidate = short if is_image and short not in self._taken else long
        for number in itertools.count(2):
            if candidate not in self._taken:
                break
            candidate = path.with_name(f"{path.name}.{number}.png")
        self._taken.add(candidate)
        return candidate


if __name__ == "__main__":
    cli.run(main)
