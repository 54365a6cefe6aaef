"""Sharing tokens out to the tiles of a picture."""

import bisect
import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

_LEAST_PAINTED = 4  # tokens of a tile that gives to others
_PULL = 3.0  # a tile painted all over weighs e ** 3 = 20 times as much as one that is not


def allot(
    detail: Float[np.ndarray, " t"],
    painted: Float[np.ndarray, " t"],
    wanted: int,
    stops: Sequence[int],
) -> Int[np.ndarray, " t"]:
    """Numbers of tokens of tiles, at most ``wanted`` in all (but the least stop for each).

    Where nothing is painted, all tiles have the same number, as in training; what does not divide
    goes to those with the most detail. Where something is, tokens move between tiles; each keeps
    four, if there are as many.

    Args:
      detail: of each tile, in any unit.
      painted: mean of what is painted on each tile, -1 to 1; 0 is nothing.
      wanted: tokens in all.
      stops: numbers that a tile can have, in ascending order.
    """
    each = wanted / len(detail)
    if np.any(painted):
        least = bisect.bisect_right(stops, min(each, _LEAST_PAINTED)) - 1
        return _raise_the_neediest(np.exp(_PULL * painted), wanted, stops[max(least, 0) :])
    above = bisect.bisect_right(stops, each)
    return _raise_the_neediest(
        np.maximum(detail, 1e-9), wanted, stops[max(above - 1, 0) : above + 1]
    )


def _raise_the_neediest(
    weight: Float[np.ndarray, " t"], wanted: int, stops: Sequence[int]
) -> Int[np.ndarray, " t"]:
    """Starts with the least for all and raises, stop by stop, the tile of the most weight a token.

    That is how the partition of one image cuts its most complex region.
    """
    level = np.zeros(len(weight), int)
    left = wanted - len(weight) * stops[0]
    queue = [(-value / stops[0], tile) for tile, value in enumerate(weight)]
    heapq.heapify(queue)
    while queue:
        _, tile = heapq.heappop(queue)
        if level[tile] + 1 == len(stops):
            continue
        more = stops[level[tile] + 1] - stops[level[tile]]
        if more > left:
            continue
        left -= more
        level[tile] += 1
        heapq.heappush(queue, (-weight[tile] / stops[level[tile]], tile))
    return np.asarray(stops)[level]
