"""Moves tokens to where they are wanted and draws what that changes.

python examples/focus.py --checkpoint=photos-small --focus=0.3,0.15,0.4,0.4,0.5 --output=focus.jpg
"""

import common
import jax
from absl import flags

from gpstoken_jax.metrics.image import local_psnr
from gpstoken_jax.model.high_resolution import decode_images, encode_images
from gpstoken_jax.partition import focus
from gpstoken_jax.programs import cli
from gpstoken_jax.tokenizer import Tokenizer
from gpstoken_jax.tokens.visualize import draw_density, draw_gaussians, draw_outline, to_uint8

FOCUS = flags.DEFINE_multi_string(
    "focus", ["0.3,0.15,0.4,0.4,0.5"], "x,y,w,h,strength in fractions of the image; repeatable."
)


def main() -> None:
    """Encodes a photo with and without a focus, and writes the pictures."""
    tokenizer = Tokenizer.from_pretrained(common.CHECKPOINT.value)
    model, params, config = tokenizer.model, tokenizer.params, tokenizer.config
    size = (config.model.image_size,) * 2
    photo = common.read_photo(common.IMAGE.value, "chelsea", size[0])
    strength = focus.read_focus(size, FOCUS.value)
    inside = focus.focus_mask(strength)

    @jax.jit
    def reconstruct(images, bias):
        initial, tokens = encode_images(model, params, images, bias=bias, **config.partition)
        return initial[0], tokens[0, :, :5], decode_images(model, params, tokens).images

    rows = []
    for name, amount in (("without the focus", 0 * strength), ("with the focus", strength)):
        bias = focus.strength_to_bias(amount, config.partition.weight)
        initial, refined, decoded = reconstruct(photo[None], bias[None])
        near, far = (float(psnr[0]) for psnr in local_psnr(photo[None], decoded, inside))
        print(f"{name + ':':18s} PSNR inside {near:.2f} dB, outside {far:.2f} dB")
        drawings = [draw_gaussians(photo, initial), draw_density(refined, (384, 384))]
        enlarged = to_uint8(decoded[0]).repeat(max(1, 384 // size[0]), 0)
        drawings.append(enlarged.repeat(max(1, 384 // size[0]), 1))
        rows.append([draw_outline(drawing, inside) for drawing in drawings])
    common.save(common.OUTPUT.value, rows, ["Partition", "Token density", "Reconstruction"])


if __name__ == "__main__":
    cli.run(main)
