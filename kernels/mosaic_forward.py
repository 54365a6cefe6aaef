"""The forward GPU kernel: the whole map in one launch, and the backward's plan beside it."""

import functools
from collections.abc import Sequence

from jax import Array

from gpstoken_jax.kernels.mosaic_lists import region_of
from gpstoken_jax.kernels.mosaic_plan import plan_image
from gpstoken_jax.kernels.mosaic_tiles import (
    COLUMN_STRIDE,
    ROW_STRIDE,
    STEP,
    TILE,
    Problem,
    Room,
    Tile,
    Vectors,
    for_each_step,
    store_channels,
)
from gpstoken_jax.kernels.mosaic_words import (
    Global,
    Number,
    Shared,
    block,
    fma,
    from_lane,
    kernel,
    matmul,
    power_of_two,
    shape,
    split,
    thread,
    when,
    zeros,
)


def draw(
    problem: Problem,
    geometry: Array,
    features: Array,
    lists: Sequence[Array] = (),
    planned: bool = False,
) -> Array | list[Array]:
    """The map [B, H, W, C]; planned, (map, plan [B, L, 4]), see `mosaic_plan`."""
    image = shape((problem.batch, problem.height, problem.width, problem.channels), features.dtype)
    plan = shape((problem.batch, problem.tokens, 4), "int32")
    planners = problem.batch if planned else 0  # the first blocks

    def body(shared, *arrays):
        if not planned:
            return draw_tile(problem, shared, block(), *arrays)
        *arrays, plan = arrays
        plan_it = lambda: plan_image(problem, shared, block(), arrays[0], plan)  # noqa: E731
        when(block() < planners, plan_it)
        tile = block() - planners
        return when(tile >= 0, lambda: draw_tile(problem, shared, tile, *arrays))

    words = Room.words(problem, cotangent=False)
    outputs = [image, plan] if planned else image
    run = kernel("splat_forward", body, outputs, words, problem.grid + planners)
    return run(geometry, features, *problem.coordinates(), *lists)


def draw_tile(
    problem: Problem,
    shared: Shared,
    number: Number,
    geometry: Global,
    features: Global,
    xs: Global,
    ys: Global,
    *rest: Global,
) -> None:
    """Sum the tokens of each warp's tile and write its rows of the map."""
    *lists, image = rest
    tile = Tile.of(problem, number)
    room = Room(problem, shared, cotangent=False)
    groups = problem.chunk // 16
    arrays, listed = (geometry, features, xs, ys), (*lists, region_of) if lists else ()

    def add(token, _, sums):
        return add_tokens(problem, room, token.rho, sums)

    start = functools.partial(zeros, 4 * 8 * groups)
    sums = for_each_step(problem, room, tile, arrays, listed, start, add)

    lane_x, quad = tile.x * TILE + (tile.lane >> 2), (tile.lane & 3) * 4
    for n in range(TILE):
        lane_y = tile.y * TILE + n

        def store(n=n, lane_y=lane_y):
            start = (
                (tile.image * problem.height + lane_y) * problem.width + lane_x
            ) * problem.channels
            for group in range(groups):
                at = 4 * (2 * groups * (n // 2) + 2 * group) + 2 * (n % 2)
                values = [*sums[at : at + 2], *sums[at + 4 : at + 6]]
                channel = quad + tile.chunk * problem.chunk + 16 * group
                store_channels(problem, image, start, channel, values)

        when((lane_y < problem.height) & (lane_x < problem.width), store)


def add_tokens(problem: Problem, room: Room, rho: Number, sums: list[Number]) -> list[Number]:
    """Add weights @ features of the staged step to the sums.

    For two rows of pixels and eight channels at a time: a fragment of [16 pixels, 8 channels].
    """
    lane = thread() & 31
    column, tokens = lane >> 2, [(lane & 3) * 2 + n for n in (0, 1, 8, 9)]
    groups = range(problem.chunk // 16)
    vectors = Vectors(problem, room.features, STEP)
    fragments = [vectors.fragments(0, group, transposed=True) for group in groups]
    right = [[part[n : n + 2] for part in f] for f in fragments for n in (0, 2)]
    u = [room.columns.load(t * COLUMN_STRIDE + column)[0] for t in tokens]
    rho = [from_lane(rho, t) for t in tokens]
    each = 4 * len(right)  # sums of two rows
    out = []
    for row in range(0, TILE, 2):
        local = [room.rows.load(t * ROW_STRIDE + row * 2, 4) for t in tokens]  # v, -o v^2, twice
        a = [[fma(-rho[n], v[k], u[n]) for n, v in enumerate(local)] for k in (0, 2)]
        weights = [
            [power_of_two(fma(-a[k][n], a[k][n], v[2 * k + 1])) for n, v in enumerate(local)]
            for k in (0, 1)
        ]
        pairs = [split(*weights[k][n : n + 2], problem.parts) for n in (0, 2) for k in (0, 1)]
        left = list(zip(*pairs, strict=True))
        mine = sums[row // 2 * each :][:each]
        totals = [mine[n : n + 4] for n in range(0, each, 4)]
        out += [s for t in matmul(totals, [left] * len(right), right) for s in t]
    return out
