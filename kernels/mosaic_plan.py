"""Slots for partial sums of the backward: one for each tile that a token's box meets.

A few blocks of the forward's launch hand out the slots of their image in the order of the tokens,
as long as there are any. A token without slots is summed in another, slower way, so huge boxes cost
time and no memory.
"""

import functools

from gpstoken_jax.kernels.mosaic_tiles import (
    MARGIN_MU,
    MARGIN_SIGMA,
    Problem,
    load_geometry,
    places_before,
    well_posed,
)
from gpstoken_jax.kernels.mosaic_words import (
    WARPS,
    Global,
    Number,
    Shared,
    absolute,
    barrier,
    ceil,
    floor,
    from_lane,
    integer,
    loop,
    maximum,
    minimum,
    thread,
    when,
)


def tile_range(problem: Problem, token: list[Number]) -> list[Number]:
    """First tile across and down, and how many across and down, that a token's box meets.

    The count is 0 for a box off the map. A little wide, but less than culling.
    """
    sigma_x, sigma_y, _, mu_x, mu_y = token
    first, count = [], []
    for sigma, mu, pixels in ((sigma_x, mu_x, problem.width), (sigma_y, mu_y, problem.height)):
        half = sigma * (problem.support * (1 + MARGIN_SIGMA / 2))
        half = half + (absolute(mu) * MARGIN_MU + MARGIN_MU) * 0.5
        shift, scale = (1.0, (pixels - 1) / 2) if pixels > 1 else (0.0, 1.0)
        low, high = ((mu + side + shift) * scale for side in (-half, half))
        low, high = maximum(ceil(low), 0), minimum(floor(high), pixels - 1)
        first.append(low >> 3)
        count.append((low <= high).where((high >> 3) - (low >> 3) + 1, 0))
    return [*first, *count]


def plan_image(
    problem: Problem, shared: Shared, image: Number, geometry: Global, plan: Global
) -> None:
    """plan[B * L, 4]: first slot or -1, first tile (x | y << 16), tiles across and down.

    A token that meets nothing has 0 tiles. Sums saturate just above `slots`, so no number of tokens
    overflows them.
    """
    lane, warp, slots = thread() & 31, thread() >> 5, problem.slots

    def tiles_of(finite, token):
        x, y, across, down = tile_range(problem, token)
        want = finite.where(minimum(across * down, slots + 1), 0)
        return x | (y << 16), finite.where(across, 0), finite.where(down, 0), want

    def some(start, carry):
        (taken,) = carry
        numbers = [start + thread() + 128 * n for n in range(at_once)]
        rows = [image * problem.tokens + minimum(n, problem.tokens - 1) for n in numbers]
        tokens = [load_geometry(geometry, row) for row in rows]
        found = [tiles_of(*well_posed(token)) for token in tokens]
        takes = [
            ((n < problem.tokens) & (want <= slots)).where(want, 0)
            for n, (*_, want) in zip(numbers, found, strict=True)
        ]
        upto = takes  # sums over the warp's lanes up to this one
        for distance in (1, 2, 4, 8, 16):
            lower = [from_lane(u, lane - distance) for u in upto]
            upto = [u + (lane >= distance).where(l, 0) for u, l in zip(upto, lower, strict=True)]
        for n, of_warp in enumerate(upto):
            # Only the last lane's is the warp's sum; the others write to words of their own.
            at = lane.equals(31).where(warp + WARPS * n, thread() + WARPS * at_once)
            shared.store(at, [of_warp])
        barrier()
        before, taken = places_before(shared, at_once, warp, taken, slots + 1)
        for n, (number, (corner, wide, high, want)) in enumerate(zip(numbers, found, strict=True)):
            first = before[n] + upto[n] - takes[n]
            fits = ((want <= slots) & (first + want <= slots)) | want.equals(0)
            entry = [fits.where(first, -1), corner, wide, high]
            row = (image * problem.tokens + number) * 4
            put = functools.partial(plan.store, row, entry)
            when(number < problem.tokens, put)
        barrier()
        return [taken]

    at_once = min(4, -(-problem.tokens // 128))
    loop(0, problem.tokens, 128 * at_once, [integer(0)], some)
