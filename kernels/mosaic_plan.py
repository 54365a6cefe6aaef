"""Where the backward leaves partial sums: a slot for each tile that a token's box meets.

A few blocks of the forward's launch hand out the slots of their image in the order of the tokens,
as long as there are any. A token without slots is summed in another, slower way, so huge boxes cost
time and no memory.
"""

from gpstoken_jax.kernels.mosaic_tiles import MARGIN_MU, MARGIN_SIGMA, Problem, well_posed
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
        tokens = [well_posed(geometry, row) for row in rows]
        for number, token in zip(numbers, tokens, strict=True):
            corner, across, down, want = tiles_of(*token)
            real = number < problem.tokens
            takes = (real & (want <= slots)).where(want, 0)
            upto = takes
            for distance in (1, 2, 4, 8, 16):
                upto = upto + (lane >= distance).where(from_lane(upto, lane - distance), 0)
            when(lane.equals(31), lambda upto=upto: shared.store(warp, [upto]))
            barrier()
            first = taken + upto - takes
            for n in range(WARPS):
                of_warp = shared.load_integer(n)
                first = first + (warp > n).where(of_warp, 0)
                taken = taken + of_warp
            barrier()
            taken = minimum(taken, slots + 1)
            fits = (want <= slots) & (first + want <= slots)
            first = (fits | want.equals(0)).where(first, -1)
            entry = [first, corner, across, down]
            row = (image * problem.tokens + number) * 4
            when(real, lambda row=row, entry=entry: plan.store(row, entry))
        return [taken]

    at_once = min(4, -(-problem.tokens // 128))
    loop(0, problem.tokens, 128 * at_once, [integer(0)], some)
