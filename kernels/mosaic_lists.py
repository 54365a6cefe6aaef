"""For many tokens: one more launch lists those that meet each region of a few tiles."""

import functools

from jax import Array

from gpstoken_jax.kernels.mosaic_tiles import (
    TILE,
    Problem,
    Tile,
    box_of,
    load_geometry,
    meets,
    places_before,
    well_posed,
)
from gpstoken_jax.kernels.mosaic_words import (
    THREADS,
    WARPS,
    Number,
    ballot,
    barrier,
    block,
    count_ones,
    integer,
    kernel,
    loop,
    minimum,
    shape,
    thread,
    when,
)

AT_ONCE = 4  # tokens a thread tests at once
ENOUGH = 1024  # tokens that a block culls by itself


def region_tiles(problem: Problem) -> int:
    """Tiles a side of a region, a power of two.

    The lists take no more than a quarter of a map of 32 channels.
    """
    tiles, most = 4, 8 * problem.height * problem.width
    while (count := regions(problem, tiles)) > 1 and count * problem.tokens > most:
        tiles *= 2
    return tiles


def regions(problem: Problem, tiles: int) -> int:
    """Regions of so many tiles a side in an image."""
    down, across = problem.tiles
    return -(-down // tiles) * -(-across // tiles)


def region_of(problem: Problem, tile: Tile) -> Number:
    """Number of the tile's list."""
    tiles = region_tiles(problem)
    across = -(-problem.tiles[1] // tiles)
    inside = tile.y // tiles * across + tile.x // tiles
    return tile.image * regions(problem, tiles) + minimum(inside, regions(problem, tiles) - 1)


def list_tokens(problem: Problem, geometry: Array) -> tuple[Array, Array]:
    """Rows of the tokens that meet each region [B, regions, L], in order, and counts [B, regions].

    What lies behind a list's end is not written.
    """
    tiles = region_tiles(problem)
    count = regions(problem, tiles)
    across = -(-problem.tiles[1] // tiles)

    def body(shared, geometry, xs, ys, lists, counts):
        lane, warp = thread() & 31, thread() >> 5
        lower_lanes = (integer(1) << lane) - 1
        image, number = block() // count * problem.tokens, block() % count
        sides = (number % across, xs, problem.width), (number // across, ys, problem.height)
        bounds = [
            c.load(minimum(at * (tiles * TILE) + n, pixels - 1))[0]
            for at, c, pixels in sides
            for n in (0, tiles * TILE - 1)
        ]

        def some(start, carry):
            (total,) = carry
            numbers = [start + thread() + THREADS * n for n in range(AT_ONCE)]
            rows = [image + minimum(n, problem.tokens - 1) for n in numbers]
            tokens = [load_geometry(geometry, row) for row in rows]
            hits = [
                finite & (n < problem.tokens) & meets(box_of(problem, token), bounds)
                for n, (finite, token) in zip(numbers, map(well_posed, tokens), strict=True)
            ]
            votes = [ballot(hit) for hit in hits]
            for n, vote in enumerate(votes):
                shared.store(warp + WARPS * n, [count_ones(vote)])
            barrier()
            before, total = places_before(shared, AT_ONCE, warp, total)
            for n, (hit, vote) in enumerate(zip(hits, votes, strict=True)):
                at = block() * problem.tokens + before[n] + count_ones(vote & lower_lanes)
                when(hit, functools.partial(lists.store, at, [rows[n]]))
            barrier()
            return [total]

        (total,) = loop(0, problem.tokens, THREADS * AT_ONCE, [integer(0)], some)
        when(thread().equals(0), lambda: counts.store(block(), [total]))

    lead = (problem.batch, count)
    outputs = [shape((*lead, problem.tokens), "int32"), shape(lead, "int32")]
    run = kernel("splat_lists", body, outputs, WARPS * AT_ONCE, problem.batch * count)
    return tuple(run(geometry, *problem.coordinates()))
