"""Tiled and culled splatting in plain JAX, with its own gradient: no [L, H, W] array exists.

Forward: for each tile of 16 x 16 pixels, list the tokens whose box meets it and take them in
blocks.
Backward: for each block of tokens, neighbours on a Morton curve, list the tiles that their common
box meets and take those one by one; every token's gradient is summed by one loop, so results are
the same bits on every run. Both loops run a group at a time: one by one on a CPU, as many as fit in
a bounded workspace on an accelerator.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from gpstoken_jax.kernels import reference
from gpstoken_jax.kernels.batching import fold_vmap
from gpstoken_jax.kernels.gaussian import (
    INERT,
    geometry_gradient,
    local_weights,
    moments,
    well_posed,
)
from gpstoken_jax.kernels.tiling import (
    Tiling,
    block_boxes,
    compact,
    meet,
    morton_order,
    pad_tokens,
    token_boxes,
)

TILE = 16
BLOCK = 32  # tokens taken together
WORKSPACE = 2**24  # weights alive at once on an accelerator (64 MiB in float32)
DENSE_PAIRS = 2**20  # of an image: 4 MiB of float32 weights
unsupported = reference.unsupported  # plain XLA can serve everywhere, too
_dot = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def splat(
    geometry: Float[Array, "b l 5"],
    features: Float[Array, "b l c"],
    size: tuple[int, int],
    support: float,
) -> Float[Array, "b h w c"]:
    """Sum over tokens of weight * feature at every pixel; float32, see `kernels.splat`."""
    return _splat(well_posed(geometry), features, size, support)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _splat(geometry, features, size, support):
    if not tiles_save_work(features.shape[1], size):
        return reference.draw(geometry, features, size, support)
    forward = functools.partial(_forward, size=size, support=support)
    return fold_vmap(forward)(geometry, features)


def _splat_forward(geometry, features, size, support):
    return _splat(geometry, features, size, support), (geometry, features)


def _splat_backward(size, support, residuals, cotangent):
    backward = functools.partial(_backward, support=support)
    return fold_vmap(backward)(*residuals, cotangent)


_splat.defvjp(_splat_forward, _splat_backward)


def tiles_save_work(tokens: int, size: tuple[int, int]) -> bool:
    """True if tiles take no more (pixel, token) pairs than there are, for tokens of even shares.

    Such a token's box is 2 / sqrt(tokens) of the map's side (sigma is two thirds of the half side
    of its square), and a tile takes those that meet it in whole blocks: more than all of them where
    tokens are few. At equal pairs tiles are faster, because their weights stay in the cache. The
    gradient is tiled always: the dense one keeps a dozen arrays of all pairs. So is an export that
    leaves the number of tokens open.
    """
    if not isinstance(tokens, int):
        return True
    tiling, pairs = _tiling(size), tokens * math.prod(size)
    box = 2 / math.sqrt(max(tokens, 1))
    down, across = tiling.tile_height / size[0] + box, tiling.tile_width / size[1] + box
    met = tokens * min(1.0, down) * min(1.0, across)
    taken = math.ceil(met / BLOCK) * BLOCK * tiling.tiles * tiling.pixels
    return taken <= pairs or pairs > DENSE_PAIRS


def _tiling(size: tuple[int, int]) -> Tiling:
    return Tiling(*size, min(TILE, size[0]), min(TILE, size[1]))


def _group_size(items: int, pixels: int) -> int:
    """Number of tiles or token blocks to do at once."""
    if jax.default_backend() == "cpu":
        return 1
    return max(1, min(items, WORKSPACE // (pixels * BLOCK)))


def _in_groups(function, items: int, *, of_image: int, pixels: int):
    """function(item, live) for `items` numbers, a group at a time; outputs [items, ...].

    An export that leaves the batch open serves several platforms: it has a form for each, on an
    accelerator with one image's items (tiles or token blocks) at a time.
    """
    if isinstance(items, int):
        return _in_groups_of(_group_size(items, pixels), function, items)
    accelerator = max(1, min(of_image, WORKSPACE // (pixels * BLOCK)))
    forms = {"cpu": 1, "default": accelerator}
    return lax.platform_dependent(
        **{name: functools.partial(_in_groups_of, n, function, items) for name, n in forms.items()}
    )


def _in_groups_of(group: int, function, items: int):
    """`_in_groups` with so many at once.

    The last group is filled up with the last item, not live. The numbers come from the loop's
    counter: of a constant array of them, XLA's CPU compiler (JAX 0.12) takes an integer slice for a
    float one and refuses some shapes.
    """

    def run(step):
        item = step * group + jnp.arange(group)
        return function(jnp.minimum(item, items - 1), item < items)

    outputs = lax.map(run, jnp.arange(-(-items // group)))
    return jax.tree.map(lambda o: o.reshape(-1, *o.shape[2:])[:items], outputs)


def _forward(geometry, features, *, size, support):
    tiling = _tiling(size)
    batch, channels = features.shape[0], features.shape[-1]
    geometry, features = pad_tokens(geometry, features, BLOCK)
    boxes = token_boxes(geometry, support)
    x, y = map(jnp.asarray, tiling.coordinates())
    bounds = jnp.asarray(tiling.bounds())

    def draw(item, live):
        image, tile = item // tiling.tiles, item % tiling.tiles
        hits = meet(boxes[image], bounds[tile][:, None]) & live[:, None]
        listed, count = compact(hits)

        def step(k, total):
            rank = k * BLOCK + jnp.arange(BLOCK)
            chosen = image[:, None], lax.dynamic_slice_in_dim(listed, k * BLOCK, BLOCK, axis=1)
            token = jnp.where((rank < count[:, None])[..., None], geometry[chosen], INERT)
            weight = local_weights(token, x[tile], y[tile], support)[2]
            return total + _dot("gtp,gtc->gpc", weight, features[chosen].astype(jnp.float32))

        shape = (len(tile), tiling.pixels, channels)
        start = jnp.zeros_like(geometry, shape=shape)  # not zeros(): under shard_map it must vary
        return lax.fori_loop(0, -(-count.max() // BLOCK), step, start)

    drawn = _in_groups(draw, batch * tiling.tiles, of_image=tiling.tiles, pixels=tiling.pixels)
    return tiling.join(drawn.reshape(batch, tiling.tiles, tiling.pixels, channels))


def _backward(geometry, features, cotangent, *, support):
    batch, _, channels = features.shape
    order = morton_order(geometry)
    ordered = (jnp.take_along_axis(a, order[..., None], axis=1) for a in (geometry, features))
    sums, d_features = _block_sums(*pad_tokens(*ordered, BLOCK), cotangent, support)
    original = jnp.argsort(order, axis=1)[..., None]
    sums = jnp.take_along_axis(sums.reshape(batch, -1, 5), original, axis=1)
    d_features = jnp.take_along_axis(d_features.reshape(batch, -1, channels), original, axis=1)
    d_geometry = geometry_gradient(geometry, tuple(jnp.moveaxis(sums, -1, 0)))
    return d_geometry, d_features.astype(features.dtype)


def _block_sums(geometry, features, cotangent, support):
    """Moments [blocks, BLOCK, 5] and feature gradients [blocks, BLOCK, C] of all token blocks."""
    batch, _, channels = features.shape
    tiling = _tiling(cotangent.shape[1:3])
    tokens, vectors = geometry.reshape(-1, BLOCK, 5), features.reshape(-1, BLOCK, channels)
    cotangent = tiling.split(cotangent.astype(jnp.float32))
    x, y = map(jnp.asarray, tiling.coordinates())
    bounds = jnp.asarray(tiling.bounds())

    def gather(item, live):
        image = item // (len(tokens) // batch)
        token, vector = tokens[item], vectors[item].astype(jnp.float32)
        box = block_boxes(token_boxes(token, support))
        listed, count = compact(meet(box[:, None], bounds) & live[:, None])

        def step(k, totals):
            tile = listed[:, k]
            token_now = jnp.where((k < count)[:, None, None], token, INERT)
            incoming = cotangent[image, tile]
            u, v, weight = local_weights(token_now, x[tile], y[tile], support)
            weight = lax.optimization_barrier(weight)  # computed once, not once a consumer
            w = weight * _dot("gtc,gpc->gtp", vector, incoming)
            sums = [m.sum(axis=-1) for m in moments(token[..., 2, None], u, v, w)]
            d_vector = _dot("gtp,gpc->gtc", weight, incoming)
            return totals[0] + jnp.stack(sums, axis=-1), totals[1] + d_vector

        start = jnp.zeros_like(token), jnp.zeros_like(vector)
        return lax.fori_loop(0, count.max(), step, start)

    blocks = len(tokens)
    return _in_groups(gather, blocks, of_image=blocks // batch, pixels=tiling.pixels)
