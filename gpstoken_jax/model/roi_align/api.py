"""The operation, its gradient, and the choice between its two forms."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gpstoken_jax.model.roi_align import dense, windows
from gpstoken_jax.runtime.platforms import by_platform

_FORMS = {"dense": dense, "windows": windows}


def roi_align(
    features: Float[Array, "b h w c"],
    boxes: Float[Array, "b l 4"],
    output_size: int | tuple[int, int],
    *,
    implementation: str | None = None,
) -> Float[Array, "b l p q c"]:
    """Mean of bilinear samples of a feature map in each of output_size bins of each box.

    The published operator (torchvision's RoIAlign) with scale 1, adaptive sampling and aligned
    coordinates: a bin is the mean of ceil(bin side) samples a side; a sample more than one pixel
    outside the map counts as zero, a closer one takes the value of the edge.

    Args:
      features: the map.
      boxes: (x1, y1, x2, y2) in pixels, pixel i's centre at i (see `geometry.boxes_to_pixels`).
        They may reach outside the map, be larger than it, or be empty or reversed (output 0).
      output_size: bins (vertically, horizontally), or one number for both.
      implementation: "dense" (large matrix products, for accelerators), "windows" (box after box,
        only what a box covers, for CPUs), or None for the one that suits the device.

    Returns:
      [B, L, *output_size, C] in the dtype of `features`. Reverse-mode differentiable in `features`;
      boxes are constants, their gradient is zero.

    Raises:
      ValueError: wrong shapes or an unknown implementation.
    """
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if features.ndim != 4 or boxes.ndim != 3 or boxes.shape[::2] != (len(features), 4):
        raise ValueError(
            "roi_align: features must be [B, H, W, C] and boxes [B, L, 4] with the same B, got "
            f"{features.shape} and {boxes.shape}"
        )
    if implementation not in (None, *_FORMS):
        raise ValueError(
            f"roi_align: implementation must be one of {sorted(_FORMS)} or None, "
            f"got {implementation!r}"
        )
    return _roi_align(features, jnp.asarray(boxes, jnp.float32), size, implementation)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _roi_align(features, boxes, size, implementation):
    return _on_device("forward", implementation, size)(features, boxes)


def _forward(features, boxes, size, implementation):
    # The operation is linear: its gradient needs the map's shape and dtype only, so an empty slice.
    return _roi_align(features, boxes, size, implementation), (boxes, features[:0])


def _backward(size, implementation, residuals, cotangent):
    boxes, no_features = residuals
    backward = _on_device("backward", implementation, size, no_features.shape[1:3])
    return backward(cotangent, boxes), jnp.zeros_like(boxes)


_roi_align.defvjp(_forward, _backward)


def _on_device(direction, implementation, *args):
    """A function of the chosen form, or of the one for the platform that it is compiled for."""
    form = {name: partial(getattr(module, direction), *args) for name, module in _FORMS.items()}
    if implementation is not None:
        return form[implementation]
    return partial(by_platform, cpu=form["windows"], default=form["dense"])
