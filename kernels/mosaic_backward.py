"""The backward GPU kernels: sums over each tile's pixels, then over each token's tiles.

No atomics: a token's sum over a tile has a slot of its own (`mosaic_plan`), and one lane adds a
token's slots in order, so two runs give the same bits. Five sums over pixels close the gradient of
the geometry: with w = weight * d loss / d weight and scaled a and v (see `mosaic_tiles`) those of
w a^2, w v^2, w a v, w a and w v. They stay exact for |rho| near 1, where sums of u and v cancel.
"""

import functools
import math
from collections.abc import Sequence

from jax import Array
from jax.typing import DTypeLike

from gpstoken_jax.kernels.mosaic_lists import region_of
from gpstoken_jax.kernels.mosaic_tiles import (
    COLUMN_STRIDE,
    HALF_LOG2_E,
    ROW_STRIDE,
    STEP,
    TILE,
    Problem,
    Room,
    Tile,
    Token,
    Vectors,
    for_each_step,
    load_channels,
    load_features,
    load_geometry,
    load_vectors,
    read_token,
    stage_geometry,
    store_channels,
    store_vectors,
    tabulate,
    well_posed,
)
from gpstoken_jax.kernels.mosaic_words import (
    WARPS,
    Global,
    Number,
    Shared,
    across,
    ballot,
    barrier,
    block,
    count_ones,
    fma,
    from_lane,
    integer,
    kernel,
    loop,
    matmul,
    maximum,
    minimum,
    power_of_two,
    reciprocal,
    reciprocal_root,
    shape,
    split,
    thread,
    warp_barrier,
    when,
    zeros,
)

MOMENTS = 5
MOMENT_STRIDE = 8
GROUP = 64  # tokens whose slots, or lack of them, one block looks after


def gradients(
    problem: Problem,
    geometry: Array,
    features: Array,
    cotangent: Array,
    plan: Array,
    lists: Sequence[Array] = (),
) -> tuple[Array, Array]:
    """Gradients of geometry [B, L, 5] and features [B, L, C] from the map's."""
    vectors, moments = sum_tiles(problem, geometry, features, cotangent, plan, lists)
    return sum_slots(problem, geometry, plan, vectors, moments, features.dtype)


def all_slots(problem: Problem) -> int:
    """Slots an image: those of the plan, then one a warp for each token that has none of them."""
    return problem.slots + WARPS * problem.tokens


def sum_tiles(
    problem: Problem,
    geometry: Array,
    features: Array,
    cotangent: Array,
    plan: Array,
    lists: Sequence[Array],
) -> tuple[Array, Array]:
    """Partial sums, a slot each: of vectors [chunks, B slots, chunk], of moments [.., .., 8].

    Slots that the plan gives to nobody are not written.
    """
    groups = -(-problem.tokens // GROUP)

    def body(shared, *arrays):
        tile, others = block(), block() - problem.grid
        when(others < 0, lambda: sum_tile(problem, shared, tile, *arrays))
        image, start = others // groups, others % groups * GROUP
        when(others >= 0, lambda: sum_tokens(problem, shared, image, start, *arrays))

    slots = problem.chunks, problem.batch * all_slots(problem)
    outputs = [shape((*slots, n), "float32") for n in (problem.chunk, MOMENT_STRIDE)]
    words = Room.words(problem, cotangent=True)
    run = kernel("splat_tiles", body, outputs, words, problem.grid + problem.batch * groups)
    return run(geometry, features, cotangent, *problem.coordinates(), plan, *lists)


def sum_tile(
    problem: Problem,
    shared: Shared,
    number: Number,
    geometry: Global,
    features: Global,
    cotangent: Global,
    xs: Global,
    ys: Global,
    plan: Global,
    *rest: Global,
) -> None:
    """Sum over the pixels of each warp's tile, for sixteen tokens at a time."""
    *lists, vectors, moments = rest
    tile, room = Tile.of(problem, number), Room(problem, shared, cotangent=True)
    stage_cotangent(problem, room, cotangent, tile)
    arrays, listed = (geometry, features, xs, ys), (*lists, region_of) if lists else ()

    def add(token, slot, _):
        sums = add_pixels(problem, room, token.rho, no_sums(problem))
        store_sums(problem, vectors, moments, tile.chunk, slot, sums)

    slot = functools.partial(slot_of, problem, plan, tile)
    for_each_step(problem, room, tile, arrays, listed, list, add, slot)


def slot_of(problem: Problem, plan: Global, tile: Tile, token: Token) -> Number:
    """Slot of this lane's token for its sums of the tile; -1: none."""
    first, corner, wide, high = plan.load(token.row * 4, 4)
    x, y = tile.x - (corner & 0xFFFF), tile.y - (corner >> 16)
    planned = token.live & (first >= 0) & (x >= 0) & (x < wide) & (y >= 0) & (y < high)
    return planned.where(tile.image * all_slots(problem) + first + y * wide + x, -1)


def sum_tokens(
    problem: Problem,
    shared: Shared,
    image: Number,
    start: Number,
    geometry: Global,
    features: Global,
    cotangent: Global,
    xs: Global,
    ys: Global,
    plan: Global,
    *rest: Global,
) -> None:
    """Sum over the pixels of all tiles for the tokens `start` .. `start + 63` without slots.

    Sixteen tokens at a time; each warp takes every fourth tile of those that any of them meets.
    """
    vectors, moments = rest[-2:]
    lane, warp = thread() & 31, thread() >> 5
    room = Room(problem, shared, cotangent=True)

    def entry(number):
        """True for a token without slots; and its first and last tile across, and down."""
        row = image * problem.tokens + minimum(number, problem.tokens - 1)
        first, corner, wide, high = plan.load(row * 4, 4)
        x, y = corner & 0xFFFF, corner >> 16
        without = (number < problem.tokens) & (first < 0)
        return without, [x, x + wide - 1, y, y + high - 1]

    def sixteen(n, _):
        number = start + n + (lane & 15)
        without, edges = entry(number)
        for i, edge in enumerate(edges):
            reduce, nothing = (minimum, 1 << 20) if i % 2 == 0 else (maximum, -1)
            edge = without.where(edge, nothing)
            for distance in (1, 2, 4, 8):
                edge = reduce(edge, across(edge, distance))
            edges[i] = edge
        x_first, x_last, y_first, y_last = edges
        wide = x_last - x_first + 1

        def some():
            barrier()
            first = image * problem.tokens + start + n
            last = (image + 1) * problem.tokens - 1
            tabulate(problem, room, geometry, lambda m: minimum(first + m, last), STEP)
            room.chosen.store(lane, [lane])
            barrier()
            for chunk in range(problem.chunks):
                chunk = integer(chunk)

                def tile_of(m, sums, chunk=chunk):
                    at = x_first + m % wide, y_first + m // wide
                    tile = Tile(image, chunk, *at, lane, lane >= 0)
                    x, y = tile.my_centres(xs, ys)
                    token = read_token(room, integer(0), integer(STEP))
                    vectors_ = load_features(problem, features, token, chunk)
                    stage_geometry(problem, room, token, x, y)
                    store_vectors(problem, room.features, STEP, range(STEP), vectors_)
                    stage_cotangent(problem, room, cotangent, tile)
                    warp_barrier()
                    sums = add_pixels(problem, room, token.rho, sums)
                    warp_barrier()
                    return sums

                tiles = wide * (y_last - y_first + 1)
                sums = loop(warp, tiles, WARPS, no_sums(problem), tile_of)
                slot = image * all_slots(problem) + problem.slots + number * WARPS + warp
                slot = without.where(slot, -1)
                store_sums(problem, vectors, moments, chunk, slot, sums)

        when(x_first <= x_last, some)

    anyone = entry(start + lane)[0] | entry(start + 32 + lane)[0]
    when(count_ones(ballot(anyone)) > 0, lambda: loop(0, GROUP, STEP, [], sixteen))


def stage_cotangent(problem: Problem, room: Room, cotangent: Global, tile: Tile) -> None:
    """Stage the map's gradient at the tile's pixels; 0 beyond the map's edges."""
    height, width = problem.height, problem.width

    def load(pixel, channel):
        x, y = tile.x * TILE + pixel % TILE, tile.y * TILE + pixel // TILE
        inside = (x < width) & (y < height)
        start = (tile.image * height + minimum(y, height - 1)) * width + minimum(x, width - 1)
        values = load_channels(
            problem, cotangent, start * problem.channels, channel + tile.chunk * problem.chunk
        )
        if height % (2 * TILE) == 0 and width % (2 * TILE) == 0:
            return values
        return [inside.where(value, 0.0) for value in values]

    count = TILE * TILE
    for numbers in (range(0, count // 2), range(count // 2, count)):
        values = load_vectors(problem, numbers, load)
        store_vectors(problem, room.cotangent, count, numbers, values)


def no_sums(problem: Problem) -> list[Number]:
    """Sums before the first pixel: fragments of [16 tokens, 8 channels], then moments.

    A fragment for every eight channels; five moments of each of this lane's two tokens.
    """
    return zeros(problem.chunk // 8 * 4 + 2 * MOMENTS)


def add_pixels(problem: Problem, room: Room, rho: Number, sums: list[Number]) -> list[Number]:
    """Add a tile's pixels, two rows at a time, to the sums of the staged tokens.

    A lane has tokens lane // 4 and that plus 8, columns 2 (lane % 4) and the next: the gradient of
    the weights comes from the tensor cores in the layout in which they take weights.
    """
    lane = thread() & 31
    groups = range(problem.chunk // 16)
    tokens = [(lane >> 2) + 8 * t for t in (0, 1)]
    u = [room.columns.load(t * COLUMN_STRIDE + (lane & 3) * 2, 2) for t in tokens]
    rho = [from_lane(rho, t) for t in tokens]
    features = Vectors(problem, room.features, STEP)
    features = [features.fragments(0, group) for group in groups]
    cotangent = Vectors(problem, room.cotangent, TILE * TILE)
    rows = range(TILE)
    d_weights = [zeros(4) for _ in rows]
    for group in groups:
        pixels = [cotangent.fragments(row * TILE, group) for row in rows[::2]]
        right = [[part[k::2] for part in pair] for pair in pixels for k in (0, 1)]
        d_weights = matmul(d_weights, [features[group]] * TILE, right)
    totals = [sums[n : n + 4] for n in range(0, len(sums) - 2 * MOMENTS, 4)]
    moments = [sums[-2 * MOMENTS : -MOMENTS], sums[-MOMENTS:]]
    for row in rows[::2]:
        local = [room.rows.load(t * ROW_STRIDE + row * 2, 4) for t in tokens]  # v, -o v^2, twice
        pixels = [(k, t) for k in (0, 1) for t in (0, 1)]  # two columns each
        v, minus_ov2 = ([local[t][2 * k + n] for k, t in pixels] for n in (0, 1))
        a = [[fma(-rho[t], v[n], u_) for u_ in u[t]] for n, (_, t) in enumerate(pixels)]
        exponent = [[fma(-a_, a_, minus_ov2[n]) for a_ in a[n]] for n in range(4)]
        weight = [[power_of_two(e) for e in exponent[n]] for n in range(4)]
        w = [
            [e * d for e, d in zip(weight[n], d_weights[row + k][2 * t : 2 * t + 2], strict=True)]
            for n, (k, t) in enumerate(pixels)
        ]
        for n, (_, t) in enumerate(pixels):
            moments[t] = add_moments(moments[t], a[n], v[n], w[n])
        weights = [split(*weight[n], problem.parts) for n in range(4)]
        left = list(zip(*weights, strict=True))
        pixels = [cotangent.fragments(row * TILE, group, transposed=True) for group in groups]
        right = [[part[n : n + 2] for part in f] for f in pixels for n in (0, 2)]
        totals = matmul(totals, [left] * len(right), right)
    return [*(s for total in totals for s in total), *moments[0], *moments[1]]


def add_moments(
    sums: Sequence[Number], a: Sequence[Number], v: Number, w: Sequence[Number]
) -> list[Number]:
    """Add two pixels of one row to the sums of w a^2, w v^2, w a v, w a and w v."""
    aa, vv, av, sum_a, sum_v = sums
    w_a = [w_ * a_ for w_, a_ in zip(w, a, strict=True)]
    aa = fma(w_a[1], a[1], fma(w_a[0], a[0], aa))
    row_a, w_v = w_a[0] + w_a[1], (w[0] + w[1]) * v
    return [aa, fma(w_v, v, vv), fma(row_a, v, av), sum_a + row_a, sum_v + w_v]


def store_sums(
    problem: Problem,
    vectors: Global,
    moments: Global,
    chunk: Number,
    slot: Number,
    sums: Sequence[Number],
) -> None:
    """Leave a step's sums in the slots of its tokens, which lanes 0 to 15 name; -1: nowhere."""
    lane = thread() & 31
    token, quad = lane >> 2, (lane & 3) * 4
    base = chunk * (problem.batch * all_slots(problem))
    slots = [from_lane(slot, token + 8 * t) for t in (0, 1)]
    for t in (0, 1):

        def put(t=t):
            for group in range(problem.chunk // 16):
                ats = (8 * group + 4 * half + 2 * t for half in (0, 1))
                values = [value for at in ats for value in sums[at : at + 2]]
                at = (base + slots[t]) * problem.chunk + quad + 16 * group
                vectors.store(at, values)

        when(slots[t] >= 0, put)
    # Over the four lanes of a token; even lanes go on with the first token, odd ones with the
    # other.
    odd = (lane & 1).equals(1)
    pairs = zip(sums[-2 * MOMENTS : -MOMENTS], sums[-MOMENTS:], strict=True)
    total = [odd.where(b, a) + across(odd.where(a, b), 1) for a, b in pairs]
    total = [value + across(value, 2) for value in total]
    mine = odd.where(slots[1], slots[0])

    def put_moments():
        at = (base + mine) * MOMENT_STRIDE
        moments.store(at, total[:4])
        moments.store(at + 4, total[4:])

    when((mine >= 0) & ((lane & 2).equals(0)), put_moments)


def sum_slots(
    problem: Problem, geometry: Array, plan: Array, vectors: Array, moments: Array, dtype: DTypeLike
) -> tuple[Array, Array]:
    """Add each token's slots, in order, and close the gradients; eight lanes a token."""
    per_block = WARPS * 4

    def body(_, geometry, plan, vectors, moments, d_geometry, d_features):
        lane = thread() & 31
        part, quads = lane & 7, problem.chunk // 4
        row = block() * per_block + (thread() >> 3)
        real = row < problem.batch * problem.tokens
        row = minimum(row, problem.batch * problem.tokens - 1)
        first, _, wide, high = plan.load(row * 4, 4)
        image, number = row // problem.tokens, row % problem.tokens
        planned = first >= 0
        first = planned.where(first, number * WARPS + problem.slots)
        count = planned.where(wide * high, WARPS)
        start = image * all_slots(problem) + first
        total = zeros(1)[0]
        for chunk in range(problem.chunks):
            base = start + chunk * problem.batch * all_slots(problem)

            def some(n, sums, base=base):
                slots = [(n + k, base + minimum(n + k, count - 1)) for k in range(4)]
                of_slots = [
                    (
                        n < count,
                        vectors.load(at * problem.chunk + minimum(part, quads - 1) * 4, 4)
                        + moments.load(at * MOMENT_STRIDE + minimum(part, MOMENTS - 1)),
                    )
                    for n, at in slots
                ]
                for live, values in of_slots:
                    sums = [s + live.where(v, 0.0) for s, v in zip(sums, values, strict=True)]
                return sums

            *vector, moment = loop(0, count, 4, zeros(5), some)
            channel = part * 4 + chunk * problem.chunk

            def put(vector=vector, channel=channel):
                store_channels(problem, d_features, row * problem.channels, channel, vector)

            when(real & (part < quads), put)
            total = total + moment
        sums = [from_lane(total, (lane & 24) + n) for n in range(MOMENTS)]
        gradient = geometry_gradient(geometry, row, sums)
        mine = gradient[0]
        for n in range(1, 5):
            mine = part.equals(n).where(gradient[n], mine)
        when(real & (part < 5), lambda: d_geometry.store(row * 5 + part, [mine]))

    lead = problem.batch, problem.tokens
    outputs = [shape((*lead, 5), "float32"), shape((*lead, problem.channels), dtype)]
    blocks = -(-problem.batch * problem.tokens // per_block)
    run = kernel("splat_tokens", body, outputs, 1, blocks)
    return tuple(run(geometry, plan, vectors, moments))


def geometry_gradient(geometry: Global, row: Number, sums: list[Number]) -> list[Number]:
    """Gradient of a token's geometry from its moments.

    It is 0 where `well_posed` changed a value, and for a token that is not finite.
    """
    given = load_geometry(geometry, row)
    finite, token = well_posed(given)
    sigma_x, sigma_y, rho = token[:3]
    aa, vv, av, a, v = sums
    o = (1.0 - rho) * (rho + 1.0)
    scale = reciprocal_root(o) * math.sqrt(HALF_LOG2_E)
    by_x, by_y = (reciprocal(sigma) * (1 / HALF_LOG2_E) for sigma in (sigma_x, sigma_y))
    gradient = [
        fma(rho, av, aa) * by_x,
        (o * vv - rho * av) * by_y,
        (o * av - rho * aa) * (reciprocal(o) * (1 / HALF_LOG2_E)),
        a * (scale * by_x),
        (o * v - rho * a) * (scale * by_y),
    ]
    kept = [finite & g.equals(t) for g, t in zip(given, token, strict=True)]
    return [k.where(g, 0.0) for k, g in zip(kept, gradient, strict=True)]
