"""For many tokens: one more launch lists those that meet each region of a few tiles."""

from jax import Array

from gpstoken_jax.kernels.mosaic_tiles import (
    TILE,
    Problem,
    Room,
    Tile,
    choose,
    tabulate,
)
from gpstoken_jax.kernels.mosaic_words import (
    barrier,
    block,
    integer,
    kernel,
    loop,
    minimum,
    shape,
    thread,
    when,
)

ENOUGH = 1024  # tokens that a block culls by itself


def region_tiles(problem: Problem) -> int:
    """Tiles a side of a region, a power of two: the lists take no more than a quarter of a map of
    32 channels."""
    tiles, most = 4, 8 * problem.height * problem.width
    while (count := regions(problem, tiles)) > 1 and count * problem.tokens > most:
        tiles *= 2
    return tiles


def regions(problem: Problem, tiles: int) -> int:
    """Regions of so many tiles a side in an image."""
    down, across = problem.tiles
    return -(-down // tiles) * -(-across // tiles)


def region_of(problem: Problem, tile: Tile):
    """Which list is the tile's."""
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
        room = Room(problem, shared, cotangent=False)
        number = block() % count
        first = (number % across, xs, problem.width), (number // across, ys, problem.height)
        side = tiles * TILE
        bounds = [
            c.load(minimum(at * side + n, pixels - 1))[0]
            for at, c, pixels in first
            for n in (0, side - 1)
        ]

        def share(start, carry):
            (total,) = carry
            image = block() // count * problem.tokens
            some = minimum(problem.tokens - start, problem.capacity)
            tabulate(problem, room, geometry, lambda n: image + start + n, some)
            barrier()
            found = choose(room, some, bounds)

            def put(n, _):
                row = image + start + room.chosen.load_integer(n)
                lists.store(block() * problem.tokens + total + n, [row])

            # Every warp has the same list and writes a quarter of it.
            loop(thread(), found, 128, [], put)
            barrier()
            return [total + found]

        (total,) = loop(0, problem.tokens, problem.capacity, [integer(0)], share)
        when(thread().equals(0), lambda: counts.store(block(), [total]))

    lead = (problem.batch, count)
    outputs = [shape((*lead, problem.tokens), "int32"), shape(lead, "int32")]
    words = Room.words(problem, cotangent=False)
    run = kernel("splat_lists", body, outputs, words, problem.batch * count)
    return tuple(run(geometry, *problem.coordinates()))
