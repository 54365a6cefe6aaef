"""Edits tokens of photos and draws what becomes of them: geometry and texture are independent.

    python examples/edit.py --checkpoint=runs/train_demo --output=edits.jpg

Without --image and --second_image it takes two photos of scikit-image.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import common
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from gpstoken_jax.partition.focus import parse_focus
from gpstoken_jax.partition.images import partition_images
from gpstoken_jax.programs import cli
from gpstoken_jax.tokenizer import Tokenizer
from gpstoken_jax.tokens import editing
from gpstoken_jax.tokens.visualize import draw_gaussians, to_uint8

SECOND_IMAGE = flags.DEFINE_string("second_image", None, "A photo to take texture from.")
BOX = flags.DEFINE_string(
    "box", "0.3,0.2,0.4,0.4", "What to edit: x,y,w,h, the top left corner and size in fractions."
)
STEPS = 5  # of an interpolation


def main() -> None:
    """Edits and interpolates the tokens of two photos, and writes the pictures."""
    tokenizer = Tokenizer.from_pretrained(common.CHECKPOINT.value)
    size = tokenizer.config.model.image_size
    photos = np.stack([common.read_photo(common.IMAGE.value, "astronaut", size)])
    others = np.stack([common.read_photo(SECOND_IMAGE.value, "coffee", size)])
    encode, decode = functions(tokenizer)

    # ---- One layout for both photos: their tokens correspond ------------------------------------
    geometry, boxes = partition_images(photos, **tokenizer.config.partition)
    tokens, other_tokens = encode(photos, geometry, boxes), encode(others, geometry, boxes)
    box, _ = parse_focus(f"{BOX.value},1")
    where = editing.select_box(tokens, box)
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2

    # ---- Geometry alone, texture alone ----------------------------------------------------------
    edits = {
        "As it is": tokens,
        "Moved": editing.move(tokens, (0.3, 0.15), where),
        "Enlarged": editing.scale(tokens, 1.4, where, about=middle),
        "Turned by 30°": editing.rotate(tokens, 30, where, about=middle),
        "Dropped": editing.drop(tokens, where),
        "Other texture": editing.swap_features(tokens, other_tokens, where)[0],
    }
    columns = [
        [enlarge(decode(edited)[0]), draw_gaussians(photos[0], drawing(edited[0]), min_side=256)]
        for edited in edits.values()
    ]
    common.save(common.OUTPUT.value, list(zip(*columns, strict=True)), list(edits))

    # ---- On the way from one photo to the other -------------------------------------------------
    own_layout = partition_images(others, **tokenizer.config.partition)
    amounts = np.linspace(0, 1, STEPS)
    ways = (
        [editing.interpolate(tokens, other_tokens, amount) for amount in amounts],
        [editing.interpolate(tokens, encode(others, *own_layout), amount) for amount in amounts],
    )
    rows = [[enlarge(decode(between)[0]) for between in way] for way in ways]
    output = Path(common.OUTPUT.value)
    titles = [f"{amount:.0%}" for amount in amounts]
    common.save(output.with_stem(f"{output.stem}_interpolation"), rows, titles)


def drawing(tokens: jax.Array) -> np.ndarray:
    """The geometry of the tokens that draw anything."""
    return np.asarray(tokens[(tokens[:, 5:] != 0).any(-1), :5])


def enlarge(image: np.ndarray) -> np.ndarray:
    """A picture of at least 256 pixels a side, its own visible."""
    factor = -(-256 // len(image))
    return to_uint8(image).repeat(factor, 0).repeat(factor, 1)


def functions(tokenizer: Tokenizer) -> tuple[Callable, Callable]:
    """The model's encode and decode, compiled, with its weights."""
    apply = partial(tokenizer.model.apply, tokenizer.params)
    encode = jax.jit(partial(apply, method="encode"))
    decode = jax.jit(partial(apply, method="decode"))
    return encode, lambda tokens: np.asarray(decode(jnp.asarray(tokens)))


if __name__ == "__main__":
    cli.run(main)
