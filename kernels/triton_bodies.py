"""The Triton programs behind `kernels/triton.py`; one program a tile forward, a block backward.

Pointers are to contiguous arrays, in the shapes that `kernels/blocks.py` makes; sizes are
compile-time.
"""

import triton
import triton.language as tl

HALF_LOG2_E = tl.constexpr(0.7213475204444817)


@triton.jit
def _token(table, image, index, LENGTH: tl.constexpr):
    """The eight rows of the token table at `index`."""
    row = table + image * 8 * LENGTH + index
    return (
        tl.load(row),
        tl.load(row + LENGTH),
        tl.load(row + 2 * LENGTH),
        tl.load(row + 3 * LENGTH),
        tl.load(row + 4 * LENGTH),
        tl.load(row + 5 * LENGTH),
        tl.load(row + 6 * LENGTH),
        tl.load(row + 7 * LENGTH),
    )


@triton.jit
def _weight(x, y, mu_x, mu_y, by_x, by_y, half_x, half_y, rho, scale):
    """Local coordinates and weights; arguments broadcast against each other."""
    d_x = x - mu_x
    d_y = y - mu_y
    inside = (tl.abs(d_x) <= half_x) & (tl.abs(d_y) <= half_y)
    u = tl.where(inside, d_x, 0.0) * by_x
    v = tl.where(inside, d_y, 0.0) * by_y
    a = u - rho * v
    exponent = a * a * scale + v * v * HALF_LOG2_E
    return u, v, tl.where(inside, tl.exp2(-exponent), 0.0)


@triton.jit
def forward(
    listed, count, x, y, table, features, out,
    TILES: tl.constexpr, BLOCKS: tl.constexpr, LENGTH: tl.constexpr, CHUNKS: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile: the sum over the blocks listed for it of weights @ features."""
    tile = tl.program_id(0)
    chunk = tl.program_id(1)
    image = chunk // CHUNKS
    pixel = tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)
    pixel_x = tl.load(x + tile * PIXELS + pixel)[:, None]
    pixel_y = tl.load(y + tile * PIXELS + pixel)[:, None]
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    steps = tl.load(count + image * TILES + tile)
    for j in range(0, steps):
        block = tl.load(listed + (image * TILES + tile) * BLOCKS + j)
        index = block * BLOCK + tl.arange(0, BLOCK)
        mx, my, bx, by, hx, hy, rho, scale = _token(table, image, index, LENGTH)
        weight = _weight(
            pixel_x, pixel_y, mx[None, :], my[None, :], bx[None, :], by[None, :],
            hx[None, :], hy[None, :], rho[None, :], scale[None, :],
        )[2]  # fmt: skip
        place = features + (chunk * LENGTH + index)[:, None] * CHANNELS + channel[None, :]
        vector = tl.load(place).to(tl.float32)
        total = tl.dot(weight, vector, total, input_precision=PRECISION)
    place = out + ((chunk * TILES + tile) * PIXELS + pixel)[:, None] * CHANNELS + channel[None, :]
    tl.store(place, total)


@triton.jit
def backward(
    listed, count, x, y, table, features, cotangent, d_features, moments,
    TILES: tl.constexpr, BLOCKS: tl.constexpr, LENGTH: tl.constexpr, CHUNKS: tl.constexpr,
    ITEMS: tl.constexpr, SPLITS: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block: sums over its share of the tiles listed for it."""
    number = tl.program_id(0)
    chunk = tl.program_id(1)
    split = tl.program_id(2)
    image = chunk // CHUNKS
    index = number * BLOCK + tl.arange(0, BLOCK)
    pixel = tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)
    mx, my, bx, by, hx, hy, rho, scale = _token(table, image, index, LENGTH)
    rho = rho[:, None]
    place = features + (chunk * LENGTH + index)[:, None] * CHANNELS + channel[None, :]
    vector = tl.load(place).to(tl.float32)
    d_vector = tl.zeros((BLOCK, CHANNELS), tl.float32)
    sum_au = tl.zeros((BLOCK,), tl.float32)
    sum_bv = tl.zeros((BLOCK,), tl.float32)
    sum_ab = tl.zeros((BLOCK,), tl.float32)
    sum_a = tl.zeros((BLOCK,), tl.float32)
    sum_b = tl.zeros((BLOCK,), tl.float32)
    steps = tl.load(count + image * BLOCKS + number)
    for j in range(split, steps, SPLITS):
        tile = tl.load(listed + (image * BLOCKS + number) * TILES + j)
        pixel_x = tl.load(x + tile * PIXELS + pixel)[None, :]
        pixel_y = tl.load(y + tile * PIXELS + pixel)[None, :]
        u, v, weight = _weight(
            pixel_x, pixel_y, mx[:, None], my[:, None], bx[:, None], by[:, None],
            hx[:, None], hy[:, None], rho, scale[:, None],
        )  # fmt: skip
        row = ((chunk * TILES + tile) * PIXELS + pixel)[:, None] * CHANNELS
        incoming = tl.load(cotangent + row + channel[None, :]).to(tl.float32)
        d_vector = tl.dot(weight, incoming, d_vector, input_precision=PRECISION)
        w = weight * tl.dot(vector, tl.trans(incoming), input_precision=PRECISION)
        a = u - rho * v
        b = v - rho * u
        sum_au += tl.sum(w * a * u, 1)
        sum_bv += tl.sum(w * b * v, 1)
        sum_ab += tl.sum(w * a * b, 1)
        sum_a += tl.sum(w * a, 1)
        sum_b += tl.sum(w * b, 1)
    item = split * ITEMS + chunk
    place = d_features + (item * LENGTH + index)[:, None] * CHANNELS + channel[None, :]
    tl.store(place, d_vector)
    row = moments + item * 5 * LENGTH + index
    tl.store(row, sum_au)
    tl.store(row + LENGTH, sum_bv)
    tl.store(row + 2 * LENGTH, sum_ab)
    tl.store(row + 3 * LENGTH, sum_a)
    tl.store(row + 4 * LENGTH, sum_b)
