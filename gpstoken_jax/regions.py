"""Rectangles of pixels and the two ways to cut them in half.

A region is (left, top, right, bottom) in whole pixels, both ends included, as the published code
has it.
"""

from functools import cache

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

    A region can be cut while one of its sides spans more than `min_size` + 1 pixels. Of a
    square's two ways, top | bottom comes first: it is the one that wins a tie.
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
    middle = (top + bottom - 1) // 2
    return (left, top, right, middle), (left, middle + 1, right, bottom)


def _left_right(region: Region) -> Pair:
    left, top, right, bottom = region
    middle = (left + right - 1) // 2
    return (left, top, middle, bottom), (middle + 1, top, right, bottom)


@cache
def max_regions(height: int, width: int, min_size: int) -> int:
    """The largest number of regions that an image of this size can be cut into.

    It does not depend on the image: a square's two ways lead to the same four quarters.
    """
    ways = cuts(whole(height, width), min_size)
    if not ways:
        return 1
    return sum(max_regions(y + 1, x + 1, min_size) for x, y in map(extent, ways[0]))
