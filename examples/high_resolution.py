"""A photo larger than the model's images: tokens merged, and tiles decoded apart.

python examples/high_resolution.py --checkpoint=runs/train_demo --tiles=4 --output=large.jpg
"""

import common
import jax
from absl import flags

from gpstoken_jax.metrics.image import image_metrics
from gpstoken_jax.model.high_resolution import WAYS, decode_images, encode_images
from gpstoken_jax.programs import cli
from gpstoken_jax.tokenizer import Tokenizer

TILES = flags.DEFINE_integer("tiles", 2, "Rows and columns of tiles.", lower_bound=1)


def main() -> None:
    """Decodes a photo of several tiles in each way, and writes the pictures."""
    tokenizer = Tokenizer.from_pretrained(common.CHECKPOINT.value)
    model, params, config = tokenizer.model, tokenizer.params, tokenizer.config
    tiles = (TILES.value, TILES.value)
    size = TILES.value * config.model.image_size
    photo = common.read_photo(common.IMAGE.value, "astronaut", size)
    encode = jax.jit(lambda images: encode_images(model, params, images, **config.partition)[1])
    tokens = encode(photo[None])

    pictures, titles = [photo], [f"{size} x {size} pixels"]
    for way in WAYS:
        decode = jax.jit(
            lambda tokens, way=way: decode_images(model, params, tokens, tiles, way=way)
        )
        decoded, floored = decode(tokens)
        psnr = float(image_metrics(photo[None], decoded)["psnr"][0])
        pictures.append(decoded[0])
        titles.append(f"{tokens.shape[1]} tokens, {way}: {psnr:.2f} dB")
        print(titles[-1], f"(share of std held above zero: {float(floored[0]):.2%})")
    common.save(common.OUTPUT.value, [pictures], titles)


if __name__ == "__main__":
    cli.run(main)
