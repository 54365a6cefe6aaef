"""RoIAlign as matrix products of all boxes with the whole map.

Fifty times the operations that the boxes' pixels need, in the shape that accelerators are good
at. A few boxes are done at a time where all of them would take too much memory.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gpstoken_jax.model.roi_align.axis_weights import axis_weights

Size = tuple[int, int]

# Of the product of some boxes with the rows of the map: 128 MB in float32.
_MOST_ELEMENTS = 2**25


def forward(
    size: Size, features: Float[Array, "b h w c"], boxes: Float[Array, "b l 4"]
) -> Float[Array, "b l p q c"]:
    """See `roi_align`; `size` is the number of bins (vertically, horizontally)."""
    batch, height, width, channels = features.shape
    x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
    rows = axis_weights(y1, y2, size[0], height, jnp.arange(height))
    columns = axis_weights(x1, x2, size[1], width, jnp.arange(width))
    weights = rows.astype(features.dtype), columns.astype(features.dtype)
    at_once = max(1, _MOST_ELEMENTS // (batch * size[0] * width * channels))
    return _in_chunks(partial(_product, features), weights, at_once)


def backward(
    size: Size, map_size: Size, cotangent: Float[Array, "b l p q c"], boxes: Float[Array, "b l 4"]
) -> Float[Array, "b h w c"]:
    """Gradient with respect to a map of `map_size`."""
    shape = (len(cotangent), *map_size, cotangent.shape[-1])
    features = jax.ShapeDtypeStruct(shape, cotangent.dtype)
    (gradient,) = jax.linear_transpose(lambda f: forward(size, f, boxes), features)(cotangent)
    return gradient


def _product(features, weights):
    rows, columns = weights  # [B, L, p, H], [B, L, q, W]
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    return product("blqx,blpxc->blpqc", columns, product("blpy,byxc->blpxc", rows, features))


def _in_chunks(product, weights, at_once):
    boxes = weights[0].shape[1]
    if boxes <= at_once:
        return product(weights)
    by_box = jax.tree.map(lambda matrix: jnp.swapaxes(matrix, 0, 1)[:, :, None], weights)
    out = lax.map(product, by_box, batch_size=at_once)  # [L, B, 1, p, q, C]
    return jnp.swapaxes(out[:, :, 0], 0, 1)
