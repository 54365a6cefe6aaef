"""Rectangles of pixels and the ways to cut them in half.

A region is (left, top, right, bottom) in whole pixels, both ends included.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Int

Region = tuple[int, int, int, int]
Pair = tuple[Region, Region]


def whole(height: int, width: int) -> Region:
    """The region that is the whole image."""
    return (0, 0, width - 1, height - 1)


def extent(region: Region) -> tuple[int, int]:
    """(width - 1, height - 1): the distance between the first and the last pixel of each side."""
    left, top, right, bottom = region
    return right - left, bottom - top


def cuts(region: Region, min_size: int) -> list[Pair]:
    """Ways to cut a region in half: none, one (across the longer side), or two for a square.

    A region can be cut while one of its sides has more than `min_size` + 1 pixels. Of a square's
    two ways, top | bottom comes first: it is the one that wins a tie. Of an odd side the first half
    is the smaller one.
    """
    across, down = extent(region)
    if max(across, down) <= min_size:
        return []
    ways = []
    if down >= across:
        ways.append(_top_bottom(region))
    if across >= down:
        ways.append(_left_right(region))
    return ways


def _top_bottom(region: Region) -> Pair:
    left, top, right, bottom = region
    middle = (top + bottom + 1) // 2
    return (left, top, right, middle - 1), (left, middle, right, bottom)


def _left_right(region: Region) -> Pair:
    left, top, right, bottom = region
    middle = (left + right + 1) // 2
    return (left, top, middle - 1, bottom), (middle, top, right, bottom)


@cache
def max_regions(height: int, width: int, min_size: int) -> int:
    """The largest number of regions that an image of this size can be cut into.

    It does not depend on the image: a square's two ways lead to the same four quarters.
    """
    ways = cuts(whole(height, width), min_size)
    if not ways:
        return 1
    return sum(max_regions(down + 1, across + 1, min_size) for across, down in map(extent, ways[0]))


@dataclass(frozen=True)
class RegionTable:
    """Every region that cutting an image of one size can lead to; the first is the whole image."""

    regions: Int[np.ndarray, "r 4"]
    depth: Int[np.ndarray, "r"]
    """How many cuts lead to a region."""
    cuttable: Bool[np.ndarray, "r"]
    halves: Int[np.ndarray, "r ways=2 2"]
    """Rows of the halves of each way to cut a region (twice the same way where there is one)."""

    def by_shape(self, rows: Int[np.ndarray, "n"]) -> dict[tuple[int, int], Int[np.ndarray, "m"]]:
        """The given rows grouped by their regions' (height, width)."""
        groups: dict[tuple[int, int], list[int]] = {}
        for row in rows:
            across, down = extent(tuple(self.regions[row].tolist()))
            groups.setdefault((down + 1, across + 1), []).append(row)
        return {shape: np.array(rows) for shape, rows in groups.items()}


@cache
def region_table(height: int, width: int, min_size: int) -> RegionTable:
    """All regions of an image of this size: 169 for 64 x 64, 2729 for 256 x 256 (min_size 8)."""
    row_of = {whole(height, width): 0}
    queue, depth, halves = list(row_of), [0], []
    for row, region in enumerate(queue):  # which grows on the way
        ways = cuts(region, min_size)
        for half in (half for way in ways for half in way):
            if half not in row_of:
                row_of[half] = len(queue)
                queue.append(half)
                depth.append(depth[row] + 1)
        halves.append([[row_of[half] for half in way] for way in ways])
    cuttable = np.array([bool(ways) for ways in halves])
    both = [(ways[0], ways[-1]) if ways else ((0, 0), (0, 0)) for ways in halves]
    return RegionTable(np.array(queue), np.array(depth), cuttable, np.array(both, np.int32))
