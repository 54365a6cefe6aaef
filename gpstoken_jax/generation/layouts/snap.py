"""The partition that is nearest to a set of Gaussians.

Each Gaussian gives one vote, shared out among the regions that a partition can have by how near
they are in place and size. The partition of exactly L regions with the most votes is found by
dynamic programming over the tree of squares: the best ways to cover a square with 1, 2, 3, ...
regions come from those of its quarters.
"""

import numpy as np
from jaxtyping import Float, Float32, Int

from gpstoken_jax.generation.layouts.split_tree import EXTRA, LEAVES_SQUARE, NUM_PATTERNS, SplitTree

_SHARPNESS = 4.0  # how fast votes fall off with the squared distance
_MOST = 1.0  # what several Gaussians on one region can give it


def snap(tree: SplitTree, geometry: Float[np.ndarray, "n l 5"]) -> Float32[np.ndarray, "n l 5"]:
    """The nearest partitions, in canonical order; one that is a partition already stays itself.

    Raises:
      ValueError: if the image has no room for so many regions.
    """
    count = geometry.shape[1]
    if count > tree.max_regions:
        raise ValueError(f"an image of {tree.image_size} pixels has {tree.max_regions} regions")
    patterns = [_best(tree, _votes(tree, one), count) for one in geometry]
    return tree.to_geometry(np.stack(patterns))


def _votes(tree: SplitTree, geometry: Float[np.ndarray, "l 5"]) -> Float[np.ndarray, "r"]:
    """Votes of the regions. Distances: in halvings of size, and of place in the region's own."""
    own = tree.geometry.astype(np.float64)[:, None]
    size = np.log2(geometry[None, :, :2] / own[..., :2])
    place = (geometry[None, :, 3:] - own[..., 3:]) / (3 * own[..., :2])
    logits = -_SHARPNESS * (np.square(size) + np.square(2 * place)).sum(-1)
    weights = np.exp(logits - logits.max(0))
    votes = weights / weights.sum(0)
    # The far away give no reason to prefer one region to another.
    return np.minimum((votes * np.exp(logits.max(0))).sum(1), _MOST)


def _best(tree: SplitTree, votes: Float[np.ndarray, "r"], count: int) -> Int[np.ndarray, "q"]:
    """Patterns of the partition into ``count`` regions with the most votes."""
    gain = _gains(tree, votes)
    best = [np.empty(0)] * tree.num_squares  # [k]: most votes of a square cut into k + 1 regions
    last = tree.depth - 1
    for square in reversed(range(tree.num_squares)):
        total = np.full(min(tree.capacity[square] + 1, count), -np.inf)
        for pattern in range(NUM_PATTERNS):
            quarters = _quarters(tree, best, square, pattern, last)
            way = gain[square, pattern] + _spread(quarters, len(total))
            reached = way[: max(len(total) - EXTRA[pattern], 0)]
            part = total[EXTRA[pattern] : EXTRA[pattern] + len(reached)]
            np.maximum(part, reached, out=part)
        best[square] = total
    return _trace(tree, gain, best, count)


def _gains(tree: SplitTree, votes: np.ndarray) -> Float[np.ndarray, "q 8"]:
    """Votes of the regions that a pattern itself leaves: halves, the whole, smallest quarters."""
    _, squares, with_it = tree.table
    gain = np.zeros((tree.num_squares, NUM_PATTERNS))
    np.add.at(gain, squares, votes[:, None] * with_it)
    return gain


def _quarters(tree, best, square, pattern, last) -> list[np.ndarray]:
    """Of the squares that a pattern leaves and that can be cut on, their best ways."""
    if tree.level[square] == last:
        return []
    return [best[4 * square + 1 + i] for i in np.flatnonzero(LEAVES_SQUARE[pattern])]


def _spread(parts: list[np.ndarray], length: int) -> Float[np.ndarray, "k"]:
    """Most votes of several squares together, by how many regions they add: (max, +) products."""
    total = np.zeros(1)
    for part in parts:
        total = _product(total, part, length)
    return total


def _product(a: np.ndarray, b: np.ndarray, length: int) -> Float[np.ndarray, "k"]:
    out = np.full(min(len(a) + len(b) - 1, length), -np.inf)
    for i, value in enumerate(a[: len(out)]):
        part = out[i : i + len(b)]
        np.maximum(part, value + b[: len(part)], out=part)
    return out


def _trace(tree, gain, best, count) -> Int[np.ndarray, "q"]:
    """Back through the choices that made the best."""
    patterns = np.zeros(tree.num_squares, np.int64)
    todo = [(0, count - 1)]
    while todo:
        square, extra = todo.pop()
        pattern, shares = _choice(tree, gain, best, square, extra)
        patterns[square] = pattern
        quarters = 4 * square + 1 + np.flatnonzero(LEAVES_SQUARE[pattern])
        todo += zip(quarters.tolist(), shares, strict=False)
    return patterns


def _choice(tree, gain, best, square, extra) -> tuple[int, list[int]]:
    """The best pattern of a square with so many regions more, and its quarters' shares."""
    for pattern in range(NUM_PATTERNS):
        left = extra - EXTRA[pattern]
        quarters = _quarters(tree, best, square, pattern, tree.depth - 1)
        way = _spread(quarters, left + 1) if left >= 0 else np.empty(0)
        if left < len(way) and left >= 0:
            value = gain[square, pattern] + way[left]
            if np.isclose(value, best[square][extra], rtol=0, atol=1e-9):
                return pattern, _shares(quarters, left)
    raise AssertionError("the best way to cover a square is none of its ways")


def _shares(quarters: list[np.ndarray], left: int) -> list[int]:
    """Shares the regions out among the quarters."""
    shares = []
    for i in reversed(range(len(quarters))):
        before = _spread(quarters[:i], left + 1)
        ways = [
            before[left - k] + quarters[i][k] if 0 <= left - k < len(before) else -np.inf
            for k in range(min(len(quarters[i]), left + 1))
        ]
        shares.insert(0, int(np.argmax(ways)))
        left -= shares[0]
    return shares
