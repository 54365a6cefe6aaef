"""Edits tokens of photos and draws what becomes of them: geometry and texture are independent.

    python examples/edit.py --checkpoint=runs/demo --output=edits.png

Without --image and --second_image it takes two photos of scikit-image.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpstoken_jax import cli, editing
from gpstoken_jax.data import images, transforms
from gpstoken_jax.focus import parse_focus
from gpstoken_jax.layout import partition_images
from gpstoken_jax.run_directory import Tokenizer, load_tokenizer
from gpstoken_jax.visualize import draw_gaussians, image_grid, to_uint8

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The run's directory.", required=True)
IMAGE = flags.DEFINE_string("image", None, "A photo to edit.")
SECOND_IMAGE = flags.DEFINE_string("second_image", None, "A photo to take texture from.")
BOX = flags.DEFINE_string(
    "box", "0.3,0.2,0.4,0.4", "What to edit: x,y,w,h, the top left corner and size in fractions."
)
OUTPUT = flags.DEFINE_string("output", "edits.png", "The picture.")
STEPS = 5  # of an interpolation


def main() -> None:
    tokenizer = load_tokenizer(CHECKPOINT.value)
    size = tokenizer.config.model.image_size
    photos = np.stack([read_photo(IMAGE.value, "astronaut", size)])
    others = np.stack([read_photo(SECOND_IMAGE.value, "coffee", size)])
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
        [to_uint8(decode(edited)[0]), draw_gaussians(photos[0], edited[0, :, :5])]
        for edited in edits.values()
    ]
    save(OUTPUT.value, list(zip(*columns, strict=True)), list(edits))

    # ---- On the way from one photo to the other -------------------------------------------------
    own_layout = partition_images(others, **tokenizer.config.partition)
    amounts = np.linspace(0, 1, STEPS)
    ways = (
        [editing.interpolate(tokens, other_tokens, amount) for amount in amounts],
        [editing.interpolate(tokens, encode(others, *own_layout), amount) for amount in amounts],
    )
    rows = [[to_uint8(decode(between)[0]) for between in way] for way in ways]
    output = Path(OUTPUT.value)
    titles = [f"{amount:.0%}" for amount in amounts]
    save(output.with_stem(f"{output.stem}_interpolation"), rows, titles)


def functions(tokenizer: Tokenizer):
    """The model's encode and decode, compiled, with its weights."""
    apply = partial(tokenizer.model.apply, tokenizer.params)
    encode = jax.jit(partial(apply, method="encode"))
    decode = jax.jit(partial(apply, method="decode"))
    return encode, lambda tokens: np.asarray(decode(jnp.asarray(tokens)))


def read_photo(path: str | None, default: str, size: int) -> np.ndarray:
    """A photo as the model wants it, [size, size, 3] in [-1, 1]."""
    if path is None:
        from skimage import data

        pixels = getattr(data, default)()
    else:
        pixels = images.decode(images.read_bytes(path)).pixels
    pixels = transforms.center_crop(transforms.resize_short_side(pixels, size), size)
    return transforms.to_unit_range(pixels)


def save(path: str | Path, rows: list, titles: list[str]) -> None:
    """Writes a grid and says where."""
    Image.fromarray(image_grid(rows, titles=titles)).save(path)
    print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
