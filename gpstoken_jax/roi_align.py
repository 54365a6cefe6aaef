"""RoIAlign: average a feature map over the bins of many boxes.

Semantics of the published operator with scale 1, adaptive sampling and aligned coordinates: a box
is cut into output_size bins; a bin is the mean of ceil(bin side) bilinear samples a side; a
sample more than one pixel outside the map counts as zero, closer ones take the value of the edge.

Bilinear sampling is separable, so a box is two small matrices, Y [h, H] and X [w, W]
(`axis_weights`), and its output is Y F X^T. Two forms of that product give the same numbers:

- dense: all boxes' Y against the whole map, one large matrix product, a few boxes at a time to
  bound memory. What accelerators are good at.
- windows: box after box, only the piece of the map that it covers, taken in one of a few static
  sizes. A hundred times fewer operations where boxes are small; for CPUs.

Boxes are constants: their gradient is zero.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# A window of 2^n + 2 pixels holds a box of 2^n pixels with the neighbours that its samples can
# touch.
_WINDOWS = tuple(2**n + 2 for n in range(3, 12))
_DENSE_ELEMENTS = 2**26  # of the intermediate of the dense form, 256 MB in float32


def roi_align(
    features: Float[Array, "b h w c"],
    boxes: Float[Array, "b l 4"],
    output_size: int | tuple[int, int],
    *,
    implementation: str | None = None,
) -> Float[Array, "b l p q c"]:
    """Mean of bilinear samples in each of output_size bins of each box.

    Args:
      features: the map.
      boxes: (x1, y1, x2, y2) in pixels, where pixel i's centre is at i
        (`geometry.boxes_to_pixels`). May lie outside the map, be larger than it, or be empty or
        reversed (then the output is 0).
      output_size: bins (vertically, horizontally), or one number for both.
      implementation: "dense", "windows", or None for the faster one on the device that it runs on.

    Returns: [B, L, *output_size, C] in the dtype of `features`. Differentiable in `features`
      (reverse mode).

    Raises:
      ValueError: wrong shapes or an unknown implementation.
    """
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if (
        features.ndim != 4
        or boxes.ndim != 3
        or boxes.shape != (features.shape[0], boxes.shape[1], 4)
    ):
        raise ValueError(
            "roi_align: features must be [B, H, W, C] and boxes [B, L, 4] with the same B, got "
            f"{features.shape} and {boxes.shape}"
        )
    if implementation not in (None, *_FORWARD):
        raise ValueError(
            f"roi_align: implementation must be one of {sorted(_FORWARD)} or None, "
            f"got {implementation!r}"
        )
    return _roi_align(features, lax.stop_gradient(boxes), size, implementation)


def axis_weights(
    low: Float[Array, "*n"],
    high: Float[Array, "*n"],
    bins: int,
    size: int,
    pixels: Int[Array, "*#n p"],
) -> Float[Array, "*n bins p"]:
    """One axis of RoIAlign as a matrix: how much of each pixel each bin of [low, high] takes.

    `size` is the length of the map's axis, `pixels` the (unique, increasing or not) indices whose
    weights are wanted. Rows sum to 1 for boxes inside the map.

    Samples are at most one pixel and, where a bin has several, more than half a pixel apart, so
    at most four of a bin's fall within one pixel of a given one: each weight is a sum of few
    terms however large the box.
    """
    low, high = (side[..., None, None] - 0.5 for side in (low, high))
    bin_side = (high - low) / bins
    samples = jnp.maximum(jnp.ceil(bin_side), 0)  # a bin
    spacing = jnp.where(samples > 0, bin_side / jnp.maximum(samples, 1), 1)
    begin = low + jnp.arange(bins)[:, None] * bin_side
    pixel = pixels[..., None, :]
    # The first sample within one pixel, found with some slack for rounding; the weight settles
    # the rest.
    first = jnp.maximum(jnp.ceil((pixel - 1 - begin) / spacing - 0.51), 0)
    total = jnp.zeros(())
    for step in range(5):
        position = begin + (first + step + 0.5) * spacing
        inside = (first + step < samples) & (position >= -1) & (position <= size)
        distance = jnp.abs(jnp.clip(position, 0, size - 1) - pixel)
        total = total + jnp.where(inside, jnp.maximum(1 - distance, 0), 0)
    return total / jnp.maximum(samples, 1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _roi_align(features, boxes, size, implementation):
    return _on_device(_FORWARD, implementation, size)(features, boxes)


def _roi_align_fwd(features, boxes, size, implementation):
    # The operation is linear in the map: the gradient needs its shape and dtype only, so an empty
    # slice.
    shape_of = jnp.zeros((0, *features.shape[1:3]), features.dtype)
    return _roi_align(features, boxes, size, implementation), (boxes, shape_of)


def _roi_align_bwd(size, implementation, residuals, cotangent):
    boxes, shape_of = residuals
    backward = _on_device(_BACKWARD, implementation, size, shape_of.shape[1:])
    return backward(cotangent, boxes), jnp.zeros_like(boxes)


def _on_device(table, implementation, *args):
    """The chosen implementation, or the one that suits the platform the program is lowered for."""
    forms = {name: partial(form, *args) for name, form in table.items()}
    if implementation is not None:
        return forms[implementation]
    return lambda *arrays: lax.platform_dependent(
        *arrays, cpu=forms["windows"], default=forms["dense"]
    )


# Dense


def _dense(size, features, boxes):
    weights = _dense_weights(size, features.shape[1:3], boxes, features.dtype)
    product = partial(_dense_product, features)
    return _over_boxes(product, weights, features.shape)


def _dense_backward(size, map_size, cotangent, boxes):
    batch, _, _, _, channels = cotangent.shape
    features = jax.ShapeDtypeStruct((batch, *map_size, channels), cotangent.dtype)
    (gradient,) = jax.linear_transpose(lambda f: _dense(size, f, boxes), features)(cotangent)
    return gradient


def _dense_weights(size, map_size, boxes, dtype):
    (h, w), (height, width) = size, map_size
    x1, y1, x2, y2 = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
    rows = axis_weights(y1, y2, h, height, jnp.arange(height))
    columns = axis_weights(x1, x2, w, width, jnp.arange(width))
    return rows.astype(dtype), columns.astype(dtype)


def _dense_product(features, weights):
    rows, columns = weights  # [B, L, h, H], [B, L, w, W]
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    return product("blqx,blpxc->blpqc", columns, product("blpy,byxc->blpxc", rows, features))


def _over_boxes(product, weights, shape):
    """Apply `product` to a few boxes of each image at a time, as many as memory allows."""
    batch, boxes, bins, _ = weights[0].shape
    chunk = max(1, _DENSE_ELEMENTS // (batch * bins * shape[2] * shape[3]))
    if chunk >= boxes:
        return product(weights)
    by_box = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1)[:, :, None], weights)
    out = lax.map(product, by_box, batch_size=chunk)  # [L, B, 1, h, w, C]
    return jnp.swapaxes(out[:, :, 0], 0, 1)


# Windows


def _windows(size, features, boxes):
    height, width, channels = features.shape[1:]
    sides = _window_sides(height, width)

    def one(where):
        def take(side, where):
            window = lax.dynamic_slice(features, where["corner"], (1, *side, channels))[0]
            return _window_product(*_window_weights(size, side, (height, width), where), window)

        return lax.switch(where["kind"], [partial(take, side) for side in sides], where)

    out = lax.map(one, _window_places(sides, boxes, height, width))
    return out.reshape(*boxes.shape[:2], *size, channels)


def _windows_backward(size, map_size, cotangent, boxes):
    batch, _, _, _, channels = cotangent.shape
    sides = _window_sides(*map_size)

    def add(side, where, piece, gradient):
        rows, columns = _window_weights(size, side, map_size, where)
        shape = (1, *side, channels)
        change = _window_transpose(rows.astype(piece.dtype), columns.astype(piece.dtype), piece)
        old = lax.dynamic_slice(gradient, where["corner"], shape)
        return lax.dynamic_update_slice(gradient, old + change[None], where["corner"])

    def step(gradient, inputs):
        where, piece = inputs
        branches = [partial(add, side) for side in sides]
        return lax.switch(where["kind"], branches, where, piece, gradient), None

    places = _window_places(sides, boxes, *map_size)
    pieces = cotangent.reshape(-1, *cotangent.shape[2:])
    zeros = jnp.zeros((batch, *map_size, channels), cotangent.dtype)
    return lax.scan(step, zeros, (places, pieces))[0]


def _window_sides(height, width):
    """Static (height, width) of the windows, smallest first; the last is the whole map."""
    smaller = [side for side in _WINDOWS if side < max(height, width)]
    return [(min(side, height), min(side, width)) for side in smaller] + [(height, width)]


def _window_places(sides, boxes, height, width):
    """For each box of each image: which window it needs, and where the window starts."""
    batch, count, _ = boxes.shape
    boxes = boxes.astype(jnp.float32).reshape(-1, 4)
    begin = jnp.floor(boxes[:, (1, 0)] - 0.5).astype(jnp.int32)
    end = jnp.floor(boxes[:, (3, 2)] + 0.5).astype(jnp.int32)
    last = jnp.array([height - 1, width - 1])
    begin, end = jnp.clip(begin, 0, last), jnp.clip(end, 0, last)
    sides = jnp.array(sides)
    fits = (end - begin < sides[:, None]).all(axis=-1)  # [kinds, boxes]
    kind = jnp.argmax(fits, axis=0).astype(jnp.int32)
    start = jnp.minimum(begin, last + 1 - sides[kind])
    image = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), count)
    zero = jnp.zeros_like(image)
    corner = (image, start[:, 0], start[:, 1], zero)
    return {"box": boxes, "kind": kind, "corner": corner}


def _window_weights(size, side, map_size, where):
    x1, y1, x2, y2 = where["box"]
    _, top, left, _ = where["corner"]
    rows = axis_weights(y1, y2, size[0], map_size[0], top + jnp.arange(side[0]))
    columns = axis_weights(x1, x2, size[1], map_size[1], left + jnp.arange(side[1]))
    return rows, columns


def _window_product(rows, columns, window):
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    rows, columns = rows.astype(window.dtype), columns.astype(window.dtype)
    return product("qx,pxc->pqc", columns, product("py,yxc->pxc", rows, window))


def _window_transpose(rows, columns, piece):
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    return product("py,pxc->yxc", rows, product("qx,pqc->pxc", columns, piece))


_roi_align.defvjp(_roi_align_fwd, _roi_align_bwd)
_FORWARD = {"dense": _dense, "windows": _windows}
_BACKWARD = {"dense": _dense_backward, "windows": _windows_backward}
