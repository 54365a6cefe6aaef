"""The Mosaic GPU programs behind `kernels/pallas.py`: one source for compute capability 8.0 and up.

Operands reach the tensor cores (`plgpu.mma`, bfloat16 with float32 accumulation) straight from
registers: no shared memory, no barriers. The interpreter does not know that one instruction, nor
layouts, so `_Device` swaps both for plain JAX when interpreting.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gpstoken_jax.kernels.blocks import HALF_LOG2_E, ROWS
from gpstoken_jax.kernels.gaussian import moments as moments_of


@dataclass(frozen=True)
class _Device:
    """Instructions of the GPU, or what stands for them in the interpreter."""

    interpret: bool

    def layout(self, name: str):
        return None if self.interpret else getattr(plgpu.Layout, name)(jnp.bfloat16)

    def load(self, ref, layout) -> Array:
        return ref[...] if self.interpret else plgpu.load(ref, layout=layout, optimized=False)

    def zeros(self, shape, layout) -> Array:
        zeros = jnp.zeros(shape, jnp.float32)
        return zeros if self.interpret else plgpu.layout_cast(zeros, layout)

    def along(self, ref, axis: int, shape, layout) -> Array:
        """A vector of shape[axis] numbers repeated along the other axis of a matrix."""
        if self.interpret:
            return lax.broadcast_in_dim(ref[...], shape, [axis])
        vector = self.load(ref, layout.reduce(1 - axis))
        return plgpu.layout_cast(lax.broadcast_in_dim(vector, shape, [axis]), layout)

    def dot(self, total: Array, left: tuple, right: tuple) -> Array:
        """total + left @ right of operands in parts; the product of two low parts is negligible."""
        for i, j in ((1, 0), (0, 1), (0, 0)):  # small ones first
            if i < len(left) and j < len(right):
                total = self._multiply(total, left[i], right[j])
        return total

    def _multiply(self, total, left, right):
        if not self.interpret:
            return plgpu.mma(total, left, right)
        # Products of bfloat16 are exact in float32, as in the tensor cores.
        left, right = left.astype(jnp.float32), right.astype(jnp.float32)
        return total + jnp.dot(left, right, precision=lax.Precision.HIGHEST)


def _transposed(ref):
    return ref.T if hasattr(ref, "T") else plgpu.transpose_ref(ref, (1, 0))


def _parts(weight: Array, count: int) -> tuple[Array, ...]:
    high = weight.astype(jnp.bfloat16)
    return (high, (weight - high.astype(jnp.float32)).astype(jnp.bfloat16))[:count]


def _weight(x, y, token):
    """Local coordinates and weight; `token` gives the rows of the token table, broadcast."""
    mu_x, mu_y, by_sigma_x, by_sigma_y, half_x, half_y, rho, scale = token
    d_x, d_y = x - mu_x, y - mu_y
    inside = (d_x <= half_x) & (d_x >= -half_x) & (d_y <= half_y) & (d_y >= -half_y)
    # Outside the box a huge offset could overflow to a NaN that 0 * weight would keep.
    u = jnp.where(inside, d_x, 0.0) * by_sigma_x
    v = jnp.where(inside, d_y, 0.0) * by_sigma_y
    a = u - rho * v
    exponent = a * a * scale + v * v * HALF_LOG2_E
    return u, v, jnp.where(inside, jnp.exp2(-exponent), 0.0)


def _token(device: _Device, table, image, span, axis: int, shape, layout) -> list[Array]:
    """The rows of the token table for the tokens of `span`, each repeated along the pixels."""
    return [device.along(table.at[image, i, span], axis, shape, layout) for i in range(ROWS)]


def _forward_body(*refs, parts: int, chunks: int, block: int, device: _Device):
    listed, count, x, y, table = refs[:5]
    features, out = refs[5 : 5 + parts], refs[-1]
    chunk, tile = lax.axis_index("chunk"), lax.axis_index("tile")
    image, shape = chunk // chunks, (x.shape[1], block)
    left, right, sums = map(device.layout, ("MMA_LHS", "MMA_RHS", "MMA_ACC"))
    pixel_x, pixel_y = (device.along(c.at[tile], 0, shape, left) for c in (x, y))

    def step(j, total):
        span = pl.ds(listed[image, tile, j] * block, block)
        token = _token(device, table, image, span, 1, shape, left)
        weight = _weight(pixel_x, pixel_y, token)[2]
        vectors = [device.load(_transposed(f.at[chunk, :, span]), right) for f in features]
        return device.dot(total, _parts(weight, parts), vectors)

    start = device.zeros((x.shape[1], out.shape[-1]), sums)
    out[chunk, tile] = lax.fori_loop(0, count[image, tile], step, start)


def _backward_body(*refs, parts: int, chunks: int, block: int, splits: int, device: _Device):
    listed, count = refs[:2]
    features, rows, columns = (refs[8 + i * parts : 8 + (i + 1) * parts] for i in range(3))
    d_features, moments = refs[-2:]
    chunk, number, split = (lax.axis_index(n) for n in ("chunk", "block", "split"))
    image, span = chunk // chunks, pl.ds(number * block, block)
    shape = block, refs[2].shape[1]
    left, right, sums = map(device.layout, ("MMA_LHS", "MMA_RHS", "MMA_ACC"))
    vectors = [device.load(f.at[chunk, span], left) for f in features]

    def weigher(x, y, table, layout):
        token = _token(device, table, image, span, 0, shape, layout)

        def weigh(tile):
            return _weight(*(device.along(c.at[tile], 1, shape, layout) for c in (x, y)), token)

        return token[6], weigh

    # The weights are needed in two register layouts, and nothing converts one to the other. Each
    # has its own copy of x, y and table, or the compiler would merge loads that differ in layout.
    rho, weigh = weigher(*refs[2:5], sums)
    weigh_left = weigher(*refs[5:8], left)[1]

    def step(j, totals):
        tile = listed[image, number, j * splits + split]
        u, v, weight = weigh(tile)
        incoming = [device.load(_transposed(g.at[chunk, tile]), right) for g in columns]
        d_vectors = device.dot(totals[0], _parts(weigh_left(tile)[2], parts), incoming)
        incoming = [device.load(_transposed(g.at[chunk, tile]), right) for g in rows]
        w = weight * device.dot(device.zeros(shape, sums), vectors, incoming)
        terms = moments_of(rho, u, v, w)
        added = (t + jnp.sum(m, axis=1) for t, m in zip(totals[1], terms, strict=True))
        return d_vectors, tuple(added)

    zero = device.zeros((block,), None if device.interpret else sums.reduce(1))
    start = device.zeros((block, d_features.shape[-1]), sums), (zero,) * 5
    steps = (count[image, number] - split + splits - 1) // splits
    d_vectors, totals = lax.fori_loop(0, jnp.maximum(steps, 0), step, start)
    d_features[split, chunk, span] = d_vectors
    for i, total in enumerate(totals):
        moments[split, chunk, i, span] = total


def _kernel(body, out, grid: dict[str, int], interpret: bool):
    extra = {"interpret": plgpu.InterpretGPUParams()} if interpret else {}
    return plgpu.kernel(
        body,
        out_type=out,
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **extra,
    )


def forward(listed, count, x, y, table, features, *, block: int, interpret: bool) -> Array:
    """Draw tiles [B * chunks, tiles, pixels, chunk] from the lists of `blocks_of_tiles`."""
    items, channels, _ = features[0].shape
    tiles, pixels = x.shape
    body = functools.partial(
        _forward_body,
        parts=len(features),
        chunks=items // len(table),
        block=block,
        device=_Device(interpret),
    )
    out = jax.ShapeDtypeStruct((items, tiles, pixels, channels), jnp.float32)
    grid = {"chunk": items, "tile": tiles}
    return _kernel(body, out, grid, interpret)(listed, count, x, y, table, *features)


def backward(
    listed, count, x, y, table, features, rows, columns, *, block, splits, interpret
) -> tuple[Array, Array]:
    """Partial gradients of features [S, B * chunks, L, chunk] and moments [S, B * chunks, 5, L].

    `rows` are the cotangent's tiles [B * chunks, tiles, pixels, chunk], `columns` their transposes;
    features and both of these in bfloat16 parts.
    """
    items, length, channels = features[0].shape
    body = functools.partial(
        _backward_body,
        parts=len(features),
        chunks=items // len(table),
        block=block,
        splits=splits,
        device=_Device(interpret),
    )
    out = [
        jax.ShapeDtypeStruct((splits, items, length, channels), jnp.float32),
        jax.ShapeDtypeStruct((splits, items, 5, length), jnp.float32),
    ]
    grid = {"chunk": items, "block": length // block, "split": splits}
    run = _kernel(body, out, grid, interpret)
    places = x, y, table
    return run(listed, count, *places, *places, *features, *rows, *columns)
