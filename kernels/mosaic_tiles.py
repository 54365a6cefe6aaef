"""Frame of the GPU kernels of splatting: a warp owns a tile of 8 x 8 pixels, a block 2 x 2 tiles.

The block puts its tokens in shared memory; each warp lists those whose support boxes meet its tile
and takes them in steps of sixteen: local coordinates of their columns and rows, and feature
vectors as bfloat16 fragments for the tensor cores. Warps need no barrier after the first.

A step's weights are 2 ** -(a^2 + o v^2) with a = u - rho v and o = 1 - rho^2, where u and v are
offsets over sigma, scaled by sqrt(log2(e) / 2 / o); see `gaussian`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpstoken_jax.kernels.gaussian import MAX_RHO, MAX_SIGMA, MIN_SIGMA, pixel_coordinates
from gpstoken_jax.kernels.mosaic_words import (
    WARPS,
    Global,
    Number,
    Operand,
    Shared,
    absolute,
    ballot,
    barrier,
    count_ones,
    fma,
    from_lane,
    integer,
    loop,
    maximum,
    minimum,
    reciprocal,
    reciprocal_root,
    split,
    thread,
    warp_barrier,
    when,
    zeros,
)

TILE = 8  # pixels a side
STEP = 16  # tokens taken at once, rows of a tensor core's fragment
CAPACITY = 512  # tokens in shared memory at once
HALF_LOG2_E = 0.5 / math.log(2.0)
# Culling is a little wide, relative to sigma and to |mu| + 1, by more than rounding; weights are
# exact. Slots (`mosaic_plan`) are half as wide, so that what has a slot is never culled.
MARGIN_SIGMA, MARGIN_MU = 2e-5, 2e-6
OUTSIDE = 1e19  # local coordinate of a column outside a box: its square makes a weight of 0

# Words of shared memory; odd multiples of four keep the rows of fragments in different banks.
TOKEN_WORDS, BOX_WORDS = 6, 4
COLUMN_STRIDE, ROW_STRIDE = 12, 20

Listed = tuple[Global, Global, Callable] | tuple[()]  # see `for_each_share`


@dataclass(frozen=True)
class Problem:
    """Static sizes of one call: everything that the kernels' code depends on."""

    batch: int
    tokens: int
    channels: int
    height: int
    width: int
    support: float
    narrow: bool  # bfloat16 features
    slots: int  # of an image, see `mosaic_plan`

    @property
    def parts(self) -> int:
        """bfloat16 numbers that stand for one number of the features' type."""
        return 1 if self.narrow else 2

    @property
    def chunk(self) -> int:
        """Channels that a warp takes at once."""
        return 16 if self.channels <= 16 else 32

    @property
    def chunks(self) -> int:
        """Chunks of channels."""
        return -(-self.channels // self.chunk)

    @property
    def tiles(self) -> tuple[int, int]:
        """Down and across."""
        return -(-self.height // TILE), -(-self.width // TILE)

    @property
    def blocks(self) -> tuple[int, int]:
        """Of 2 x 2 tiles, down and across."""
        return -(-self.height // (2 * TILE)), -(-self.width // (2 * TILE))

    @property
    def grid(self) -> int:
        """Blocks of the launch."""
        return self.batch * self.chunks * math.prod(self.blocks)

    @property
    def capacity(self) -> int:
        """Tokens in shared memory at once, a multiple of 128."""
        return min(-(-self.tokens // 128) * 128, CAPACITY)

    @property
    def vector_stride(self) -> int:
        """Words from one staged vector of `chunk` bfloat16 to the next."""
        return self.chunk // 2 + 4

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates x and y of the pixels' centres; the last is repeated up to a whole block."""
        sides = self.width, self.height
        return tuple(np.pad(pixel_coordinates(n), (0, -n % (2 * TILE)), mode="edge") for n in sides)


class Room:
    """Layout of a block's shared memory; one for each warp, but for tokens and boxes."""

    def __init__(self, problem: Problem, shared: Shared, cotangent: bool):
        common, own = Room._sizes(problem, cotangent)
        self.capacity, warp = problem.capacity, thread() >> 5
        self.tokens = shared
        self.boxes = shared + TOKEN_WORDS * self.capacity
        self.chosen = shared + (warp * own + common)
        self.columns = self.chosen + (self.capacity + 32)
        self.rows = self.columns + STEP * COLUMN_STRIDE
        self.features = self.rows + STEP * ROW_STRIDE
        self.cotangent = self.features + problem.parts * STEP * problem.vector_stride

    @staticmethod
    def _sizes(problem: Problem, cotangent: bool) -> tuple[int, int]:
        vectors = STEP + (TILE * TILE if cotangent else 0)
        own = problem.capacity + 32 + STEP * (COLUMN_STRIDE + ROW_STRIDE)
        own += problem.parts * vectors * problem.vector_stride
        return (TOKEN_WORDS + BOX_WORDS) * problem.capacity, own

    @staticmethod
    def words(problem: Problem, cotangent: bool) -> int:
        """Words of shared memory that a block takes."""
        common, own = Room._sizes(problem, cotangent)
        return common + WARPS * own


@dataclass(frozen=True)
class Tile:
    """The tile of this warp: image, first channel, tile column and row, lane, pixel coordinates."""

    image: Number
    chunk: Number
    x: Number
    y: Number
    lane: Number
    exists: Number

    @classmethod
    def of(cls, problem: Problem, block: Number) -> "Tile":
        """The tile of this warp in a block."""
        (down, across), (tiles_down, tiles_across) = problem.blocks, problem.tiles
        warp, rest = thread() >> 5, block // (down * across)
        x = block % across * 2 + (warp & 1)
        y = block // across % down * 2 + (warp >> 1)
        exists = (x < tiles_across) & (y < tiles_down)
        image, chunk = rest // problem.chunks, rest % problem.chunks
        return cls(image, chunk, x, y, thread() & 31, exists)

    def bounds(self, xs: Global, ys: Global) -> list[Number]:
        """First and last x, first and last y of the pixels' centres."""
        ends = ((xs, self.x), (ys, self.y))
        return [c.load(place * TILE + n)[0] for c, place in ends for n in (0, TILE - 1)]

    def my_centres(self, xs: Global, ys: Global) -> tuple[list[Number], list[Number]]:
        """Four columns' and four rows' centres: the first of each in lanes 0 to 15."""
        half = (self.lane >> 4) * 4
        return tuple(c.load(at * TILE + half, 4) for c, at in ((xs, self.x), (ys, self.y)))


def load_geometry(geometry: Global, row: Number) -> list[Number]:
    """A token's sigma_x, sigma_y, rho, mu_x and mu_y, as they are."""
    return [geometry.load(row * 5 + n)[0] for n in range(5)]


def well_posed(values: list[Number]) -> tuple[Number, list[Number]]:
    """A token's geometry as `gaussian.well_posed` makes it, and whether all of it was finite."""
    (nothing,) = zeros(1)
    finite = functools.reduce(lambda sum_, v: fma(v, nothing, sum_), values, nothing).equals(0.0)
    sigma = [maximum(minimum(v, MAX_SIGMA), MIN_SIGMA) for v in values[:2]]
    rho = maximum(minimum(values[2], MAX_RHO), -MAX_RHO)
    return finite, [*sigma, rho, *values[3:]]


def tabulate(
    problem: Problem, room: Room, geometry: Global, row_of: Callable, count: Operand
) -> None:
    """Put `count` tokens in shared memory, the whole block together, up to a multiple of 128.

    Of a token: sigma_x, sigma_y, rho, mu_x, mu_y, row; and its box, x and y from and to, which
    meets nothing if there is no such token or its geometry is not finite.
    """

    def some(first, _):
        places = [first + thread() + 128 * n for n in range(at_once)]
        rows = [row_of(minimum(place, count - 1)) for place in places]
        tokens = [load_geometry(geometry, row) for row in rows]
        for place, row, values in zip(places, rows, tokens, strict=True):
            finite, token = well_posed(values)
            room.tokens.store(place * TOKEN_WORDS, token[:2])
            room.tokens.store(place * TOKEN_WORDS + 2, token[2:4])
            room.tokens.store(place * TOKEN_WORDS + 4, [token[4], row.as_float()])
            box = box_of(problem, token)
            live = finite & (place < count)
            room.boxes.store(place * BOX_WORDS, [live.where(box[0], math.inf), *box[1:]])

    at_once = 1 if problem.capacity % 256 else 2
    loop(0, _whole(count), 128 * at_once, [], some)


def box_of(problem: Problem, token: list[Number]) -> list[Number]:
    """A token's support box, a little wide: x from and to, y from and to."""
    box = []
    for sigma, mu in ((token[0], token[3]), (token[1], token[4])):
        half = sigma * (problem.support * (1 + MARGIN_SIGMA))
        half = half + (absolute(mu) * MARGIN_MU + MARGIN_MU)
        box += [mu - half, mu + half]
    return box


def meets(box: list[Number], bounds: list[Number]) -> Number:
    """True if a box meets a part of the map, both as x from and to, y from and to."""
    x, y = ((box[n] <= bounds[n + 1]) & (box[n + 1] >= bounds[n]) for n in (0, 2))
    return x & y


def places_before(
    shared: Shared, rounds: int, warp: Number, total: Number, most: int | None = None
) -> tuple[list[Number], Number]:
    """Places before this warp's in each round, after `total` of earlier ones, and the new total.

    Counts: warp w's of round n in word 4 n + w. The total is saturated at `most`.
    """
    counts = [[shared.load_integer(WARPS * n + w) for w in range(WARPS)] for n in range(rounds)]
    before = []
    for of_warps in counts:
        mine = total
        for w, count in enumerate(of_warps):
            mine = mine + (warp > w).where(count, 0)
            total = total + count
        before.append(mine)
        total = total if most is None else minimum(total, most)
    return before, total


def _whole(count):
    """The next multiple of 128."""
    return (count + 127) & -128


def choose(room: Room, count: Operand, bounds: list[Number]) -> Number:
    """List the tabulated tokens whose boxes meet the tile's bounds, in order; how many."""
    lane = thread() & 31
    lower_lanes = (integer(1) << lane) - 1

    def some(first, carry):
        (total,) = carry
        places = [first + lane + 32 * n for n in range(4)]
        boxes = [room.boxes.load(place * BOX_WORDS, 4) for place in places]
        hits = [meets(box, bounds) for box in boxes]
        votes = [ballot(hit) for hit in hits]
        before = [count_ones(vote & lower_lanes) for vote in votes]
        counts = [count_ones(vote) for vote in votes]
        for n, place in enumerate(places):
            # No branch: a lane without a hit writes to a word of its own behind the list.
            at = hits[n].where(total + before[n], lane + room.capacity)
            room.chosen.store(at, [place])
            total = total + counts[n]
        return [total]

    (total,) = loop(0, _whole(count), 128, [integer(0)], some)
    warp_barrier()
    return total


@dataclass(frozen=True)
class Token:
    """One token of a step, in lanes n and n + 16; row: of the arrays, live: it is a real one."""

    row: Number
    geometry: list[Number]
    live: Number

    @property
    def rho(self) -> Number:
        """The token's rho."""
        return self.geometry[2]


def read_token(room: Room, first: Number, total: Number) -> Token:
    """This lane's of the chosen tokens `first` to `first + 15`."""
    number = first + (thread() & 15)
    place = room.chosen.load_integer(minimum(number, total - 1)) * TOKEN_WORDS
    (mu_y,), row = room.tokens.load(place + 4), room.tokens.load_integer(place + 5)
    geometry = [*room.tokens.load(place, 2), *room.tokens.load(place + 2, 2), mu_y]
    return Token(row, geometry, number < total)


def stage_geometry(
    problem: Problem, room: Room, token: Token, x: list[Number], y: list[Number]
) -> None:
    """Stage a step's local coordinates in the tile.

    A lane does half of its token's columns and rows: x, y are the centres of its four. Of a column
    there is u; of a row v and -o v^2. Outside the box, weights become 0.
    """
    number, half = thread() & 15, (thread() >> 4) & 1
    sigma_x, sigma_y, rho, mu_x, mu_y = token.geometry
    o = (1.0 - rho) * (rho + 1.0)
    scale = reciprocal_root(o) * math.sqrt(HALF_LOG2_E)
    columns, rows = [], []
    for centre in x:
        d = centre - mu_x
        inside = token.live & (absolute(d) <= sigma_x * problem.support)
        columns.append(inside.where(d * (reciprocal(sigma_x) * scale), OUTSIDE))
    for centre in y:
        d = centre - mu_y
        inside = absolute(d) <= sigma_y * problem.support
        v = inside.where(d * (reciprocal(sigma_y) * scale), 0.0)
        rows += [v, inside.where(-(v * v * o), -(OUTSIDE**2))]
    room.columns.store(number * COLUMN_STRIDE + half * 4, columns)
    for n in (0, 4):
        room.rows.store(number * ROW_STRIDE + half * 8 + n, rows[n : n + 4])


def load_vectors(problem: Problem, numbers: range, load: Callable) -> list[list[Number]]:
    """A warp's share of vectors: load(n, c) gives channels c to c + 3 of vector n.

    A lane has four channels of a vector, and of others further on.
    """
    lane, quads = thread() & 31, problem.chunk // 4
    each = range(numbers.start, numbers.stop, 32 // quads)
    return [load(lane // quads + n, lane % quads * 4) for n in each]


def store_vectors(
    problem: Problem, staged: Shared, count: int, numbers: range, values: Sequence[Sequence[Number]]
) -> None:
    """Stage what `load_vectors` gave, of `count` vectors in all, as bfloat16 parts.

    Channels stand in an order that leaves four neighbours to a lane of a fragment.
    """
    lane, quads, stride = thread() & 31, problem.chunk // 4, problem.vector_stride
    quad = lane % quads
    word = lane // quads * stride + (quad & 3) + (quad >> 2) * 8
    each = range(numbers.start, numbers.stop, 32 // quads)
    for n, channels in zip(each, values, strict=True):
        for half in (0, 2):
            for part, pair in enumerate(split(*channels[half : half + 2], problem.parts)):
                staged.store(word + (n + part * count) * stride + 2 * half, [pair])


def load_features(
    problem: Problem, features: Global, token: Token, chunk: Number
) -> list[list[Number]]:
    """The feature vectors of a step's tokens, see `load_vectors`."""

    def load(n, channel):
        start = from_lane(token.row, n) * problem.channels
        return load_channels(problem, features, start, channel + chunk * problem.chunk)

    return load_vectors(problem, range(STEP), load)


class Vectors:
    """Staged vectors as fragments of 16 vectors by 16 channels, or of the transposed matrix."""

    def __init__(self, problem: Problem, staged: Shared, count: int):
        self.parts, self.part_words = problem.parts, count * problem.vector_stride
        self.stride = problem.vector_stride
        lane = thread() & 31
        self.staged = staged + ((lane & 15) * self.stride + (lane >> 4) * 4)

    def fragments(self, first: int, group: int, transposed: bool = False) -> list[list[Number]]:
        """The parts of vectors first .. first + 15, channels of the group'th sixteen.

        Four pairs: vectors 0-7 and 8-15 of the first eight channels, then of the others.
        """
        at = first * self.stride + group * 8
        each = (at + part * self.part_words for part in range(self.parts))
        return [self.staged.load_matrices(index, transposed) for index in each]


def load_channels(problem: Problem, array: Global, start: Number, channel: Number) -> list[Number]:
    """Four channels of a vector that starts at `start`; 0 beyond the last."""
    whole, channels = problem.channels % problem.chunk == 0, problem.channels
    if channels % 4 == 0:
        values = array.load(start + (channel if whole else minimum(channel, channels - 4)), 4)
        return values if whole else [(channel < channels).where(v, 0.0) for v in values]
    places = [channel + n for n in range(4)]
    values = [array.load(start + minimum(p, channels - 1))[0] for p in places]
    return [(p < channels).where(v, 0.0) for p, v in zip(places, values, strict=True)]


def store_channels(
    problem: Problem, array: Global, start: Number, channel: Number, values: list[Number]
) -> None:
    """Four channels of a vector that starts at `start`; none beyond the last."""
    step = 4 if problem.channels % 4 == 0 else 1
    for n in range(0, 4, step):
        put = functools.partial(array.store, start + channel + n, values[n : n + step])
        if problem.channels % problem.chunk == 0:
            put()
        else:
            when(channel + n < problem.channels, put)


def for_each_step(
    problem: Problem,
    room: Room,
    tile: Tile,
    arrays: Sequence[Global],
    listed: Listed,
    start: Callable[[], list[Number]],
    body: Callable,
    look: Callable[[Token], Number] = lambda _: None,
) -> list[Number]:
    """Fold `body(token, looked, carry)` over the tile's tokens, sixteen staged at a time.

    Args:
      arrays: geometry, features, and coordinates of columns and rows.
      listed: see `for_each_share`.
      start: makes the carry before the first token.
      body: makes the next carry.
      look: loads what else a token needs, before the staging; the result is `looked`.
    """
    geometry, features, xs, ys = arrays
    bounds = tile.bounds(xs, ys)
    x, y = tile.my_centres(xs, ys)

    def share(row_of, count, carry):
        tabulate(problem, room, geometry, row_of, count)
        barrier()
        total = tile.exists.where(choose(room, count, bounds), 0)

        def step(first, carry):
            token = read_token(room, first, total)
            vectors = load_features(problem, features, token, tile.chunk)
            looked = look(token)
            stage_geometry(problem, room, token, x, y)
            store_vectors(problem, room.features, STEP, range(STEP), vectors)
            warp_barrier()
            carry = body(token, looked, carry)
            warp_barrier()
            return carry

        carry = loop(0, total, STEP, carry, step)
        if listed or problem.tokens > problem.capacity:
            barrier()
        return carry

    return for_each_share(problem, listed, tile, start(), share)


def for_each_share(
    problem: Problem, listed: Listed, tile: Tile, carry: list[Number], body: Callable
) -> list[Number]:
    """Fold `body(row_of, count, carry)` over shares of up to `capacity` tokens of a tile's image.

    listed: lists, counts and region_of of `mosaic_lists`, or nothing for all tokens of the image.
    """
    if not listed:
        for start in range(0, problem.tokens, problem.capacity):
            first = tile.image * problem.tokens + start
            count = min(problem.capacity, problem.tokens - start)
            carry = body(lambda n, first=first: first + n, count, carry)
        return carry
    lists, counts, region_of = listed
    region = region_of(problem, tile)
    total = counts.load(region)[0]

    def one(first, carry):
        start = region * problem.tokens + first
        count = minimum(total - first, problem.capacity)
        return body(lambda n: lists.load(start + n)[0], count, carry)

    return loop(0, total, problem.capacity, carry, one)
