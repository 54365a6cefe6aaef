"""The tokenizer's two directions as StableHLO, for programs without this package.

Weights are an argument, by name, so that both functions share one copy; the number of images is
left open, and for decoding that of tokens. Splats are those of plain XLA operations, which any
platform compiles.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from gpstoken_jax.model.gpstoken import GPSToken
from gpstoken_jax.partition.images import partition_images
from gpstoken_jax.runtime.platforms import tracing_for

Named = Mapping[str, Float[Array, "..."]]


def named_weights(params: Any) -> dict[str, Float[Array, "..."]]:
    """The weights by names with slashes, as `export_functions` takes them."""
    return flatten_dict(params["params"], sep="/")


def export_functions(
    model: GPSToken,
    params: Any,
    partition: ConfigDict,
    num_tokens: int,
    platforms: Sequence[str] = ("cpu", "cuda"),
) -> dict[str, export.Exported]:
    """``encode``: weights, uint8 images [b, S, S, 3] to tokens [b, L, 5 + C]; ``decode``: back.

    Args:
      model: the tokenizer.
      params: its weights; of them only the shapes are used.
      partition: that section of the config.
      num_tokens: that ``encode`` makes; ``decode`` takes any number.
      platforms: that the functions shall run on, of cpu, cuda, rocm and tpu.

    Raises:
      ValueError: for more tokens than an image has regions.
    """
    options = {"weight": partition.weight, "min_size": partition.min_size}

    def encode(weights: Named, images: UInt8[Array, "b s s 3"]) -> Float[Array, "b l 5+c"]:
        floats = images.astype(jnp.float32) / 255 * 2 - 1

        def one(image):
            geometry, boxes = partition_images(image[None], num_tokens, **options)
            tree = _tree(weights)
            return model.apply(tree, image[None], geometry, boxes, method="encode")[0]

        # What is chosen by the batch's size inside cannot be, where that is open. A CPU's loops
        # over regions would do the work of all images for each.
        in_turn = partial(jax.lax.map, one)
        return jax.lax.platform_dependent(floats, cpu=in_turn, default=jax.vmap(one))

    def decode(weights: Named, tokens: Float[Array, "b l 5+c"]) -> UInt8[Array, "b s s 3"]:
        images = model.apply(_tree(weights), tokens, method="decode")
        return jnp.rint(((images + 1) / 2).clip(0, 1) * 255).astype(jnp.uint8)

    side, width = model.config.image_size, 5 + model.config.feature_channels
    b, any_number = export.symbolic_shape("b, l")
    weights = {n: jax.ShapeDtypeStruct(w.shape, w.dtype) for n, w in named_weights(params).items()}
    # A CPU's kernels are plain operations.
    with jax.default_device("cpu"), tracing_for(None):
        return {
            function.__name__: export.export(jax.jit(function), platforms=platforms)(
                weights, jax.ShapeDtypeStruct(shape, dtype)
            )
            for function, shape, dtype in (
                (encode, (b, side, side, 3), jnp.uint8),
                (decode, (b, any_number, width), jnp.float32),
            )
        }


def _tree(weights: Named) -> dict[str, Any]:
    return {"params": unflatten_dict(weights, sep="/")}
