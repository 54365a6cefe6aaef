"""Comparison of drawn layouts with real ones of the same classes.

validity      share of layouts that are partitions: "exact" as drawn, to a fiftieth of a pixel;
              "rounded" with every edge moved to the nearest pixel
uncovered     share of the image's pixels under no region, edges rounded
overlap       regions too many over a pixel, mean over the pixels, edges rounded
size          total variation distance of the histograms of region sizes, by class: half the sum of
              the absolute differences, 0 to 1; a size is the share
              of the width and that of the height, to powers of two
place         mean absolute difference of the maps of token density, by class; a map of mean 1
copies        share of layouts that are training layouts, to the pixel
distinct      share of layouts that are left when those that are alike are counted once
"""

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from gpstoken_jax.generation.layouts.file import Layouts
from gpstoken_jax.generation.layouts.split_tree import SplitTree, split_tree
from gpstoken_jax.partition.geometry import geometry_to_regions

_CELLS = 16  # of a density map, a side


def compare(
    drawn: Layouts, real: Layouts, training: Layouts | None = None
) -> dict[str, float | dict[str, float]]:
    """The measures above; ``size`` and ``place`` as means over classes, and by class.

    Classes are weighted by their real layouts; one without real or drawn layouts is left out.
    """
    size, place = by_class(drawn, real, _size_distance), by_class(drawn, real, _place_distance)
    regions = rounded_regions(drawn)
    painted = cover(regions, drawn.image_size)
    keys = [_key(one) for one in regions]
    measures = {
        "valid_exact": float(valid_exact(drawn).mean()),
        "valid_rounded": float((painted == 1).all((1, 2)).mean()),
        "uncovered": float((painted == 0).mean()),
        "overlap": float(np.maximum(painted - 1, 0).mean()),
        "size": _mean(size, real),
        "place": _mean(place, real),
        "distinct": len(set(keys)) / len(keys),
        "size_by_class": size,
        "place_by_class": place,
    }
    if training is not None:
        known = {_key(one) for one in rounded_regions(training)}
        measures["copies"] = float(np.mean([key in known for key in keys]))
    return measures


def valid_exact(layouts: Layouts) -> Bool[np.ndarray, "n"]:
    """Marks the layouts that are partitions as they are."""
    tree = split_tree(layouts.image_size, layouts.min_size)
    return np.array([_is_partition(tree, one) for one in layouts.geometry])


def _is_partition(tree: SplitTree, geometry: np.ndarray) -> bool:
    try:
        geometry_to_regions(geometry, tree.image_size, tree.image_size)
        tree.from_geometry(geometry[None])
    except ValueError:
        return False
    return True


def rounded_regions(layouts: Layouts) -> Int[np.ndarray, "n l 4"]:
    """Regions (left, top, right, bottom) with edges at the nearest pixels of the image."""
    side = layouts.image_size
    sigma, mu = layouts.geometry[..., :2], layouts.geometry[..., 3:]
    middle, half = (mu + 1) / 2 * (side - 1), sigma * 0.75 * side
    edges = np.concatenate([middle - half, middle + half], axis=-1)
    return np.round(edges).clip(0, side - 1).astype(np.int64)


def cover(regions: Int[np.ndarray, "n l 4"], side: int) -> Int[np.ndarray, "n s s"]:
    """Counts the regions over each pixel."""
    return np.round(_paint(regions, np.ones(regions.shape[:2]), side)).astype(np.int64)


def density(regions: Int[np.ndarray, "n l 4"], side: int) -> Float[np.ndarray, "n s s"]:
    """Tokens a pixel, each spread over its region, times what makes an even spread 1."""
    left, top, right, bottom = np.moveaxis(regions, -1, 0)
    area = (right - left + 1) * (bottom - top + 1)
    return _paint(regions, 1 / area, side) * side**2 / regions.shape[1]


def _paint(regions: np.ndarray, values: np.ndarray, side: int) -> Float[np.ndarray, "n s s"]:
    """Sums of values over the pixels of each region, by the differences at its corners."""
    corners = np.zeros((len(regions), side + 1, side + 1))
    image = np.arange(len(regions))[:, None]
    left, top, right, bottom = np.moveaxis(regions, -1, 0)
    for row, column, sign in (
        (top, left, 1),
        (top, right + 1, -1),
        (bottom + 1, left, -1),
        (bottom + 1, right + 1, 1),
    ):
        np.add.at(corners, (image, row, column), sign * values)
    return corners.cumsum(1).cumsum(2)[:, :-1, :-1]


def by_class(drawn: Layouts, real: Layouts, distance: Callable[..., float]) -> dict[str, float]:
    """``distance(drawn regions, real regions, side)`` of each class that both have."""
    both = drawn, real
    regions = [rounded_regions(layouts) for layouts in both]
    distances = {}
    for i, name in enumerate(real.label_names):
        parts = [r[layouts.label == i] for r, layouts in zip(regions, both, strict=True)]
        if all(map(len, parts)):
            distances[name] = float(distance(*parts, real.image_size))
    return distances


def _size_distance(drawn: np.ndarray, real: np.ndarray, side: int) -> float:
    sizes = [_size_histogram(regions, side) for regions in (drawn, real)]
    names = sizes[0].keys() | sizes[1].keys()
    return sum(abs(sizes[0][name] - sizes[1][name]) for name in names) / 2


def _size_histogram(regions: np.ndarray, side: int) -> Counter:
    extent = regions[..., 2:] - regions[..., :2] + 1
    sizes = np.round(np.log2(extent / side)).reshape(-1, 2).astype(int)
    counts = Counter(map(tuple, sizes.tolist()))
    return Counter({size: count / len(sizes) for size, count in counts.items()})


def _place_distance(drawn: np.ndarray, real: np.ndarray, side: int) -> float:
    maps = [_density_map(regions, side) for regions in (drawn, real)]
    return np.abs(maps[0] - maps[1]).mean()


def _density_map(regions: np.ndarray, side: int) -> Float[np.ndarray, "c c"]:
    cells = min(_CELLS, side)
    edges = np.arange(cells + 1) * side // cells
    total = density(regions, side).mean(0)
    sums = np.add.reduceat(np.add.reduceat(total, edges[:-1], 0), edges[:-1], 1)
    return sums / np.outer(np.diff(edges), np.diff(edges))


def _mean(distances: Mapping[str, float], real: Layouts) -> float:
    weights = [np.sum(real.label == real.label_names.index(name)) for name in distances]
    return float(np.average(list(distances.values()), weights=weights)) if distances else np.nan


def _key(regions: Int[np.ndarray, "l 4"]) -> bytes:
    """The same for the same set of regions."""
    return regions[np.lexsort(regions.T)].tobytes()
