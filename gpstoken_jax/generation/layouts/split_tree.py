"""The partition of a square image as decisions, a square at a time.

Cutting a square leaves halves, and cutting a half leaves squares again. So whatever happens to a
square that can be cut is one of eight patterns:

    0 whole   1 T|B   2 tt|B   3 T|bb   4 L|R   5 ll|R   6 L|rr   7 four quarters

(top, bottom, left, right half; a doubled small letter is a half that is cut into two quarters).
Four quarters are the same four whichever way the square was cut first, which is why a pattern says
more plainly than the two cuts what is there. A partition is then a pattern for each square that
occurs, and nothing else: the codec is one to one.

Squares are numbered level by level, in each in Z-order, the whole image first. A pattern adds 0 to
3 regions, and the squares that it leaves can add any number up to their capacity. So a partition
into L regions is any sequence of patterns that keeps to two bounds (`SplitTree.allowed`), and such
a sequence never comes to a dead end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int

from gpstoken_jax.partition.geometry import geometry_to_regions, regions_to_geometry
from gpstoken_jax.partition.regions import max_regions

State = TypeVar("State")

_CHUNK = 4096  # layouts turned into patterns at a time

NUM_PATTERNS = 8
WHOLE, QUARTERS = 0, 7
EXTRA = np.array([0, 1, 2, 2, 1, 2, 2, 3])
"""Regions that a pattern adds to the one that was there."""
_QUADRANTS = ["", "", "01", "23", "", "02", "13", "0123"]
LEAVES_SQUARE = np.array([[str(i) in pattern for i in range(4)] for pattern in _QUADRANTS])
"""Whether a pattern leaves a square in each quadrant, in Z-order: [pattern, quadrant]."""
MIRRORED = np.array([0, 1, 2, 3, 4, 6, 5, 7], np.int8)
"""The pattern of the image mirrored left to right."""

# The halves of a square in its own units (left, top, width, height), and the patterns with them.
_HALVES = {(0, 0, 2, 1): (1, 3), (0, 1, 2, 1): (1, 2), (0, 0, 1, 2): (4, 6), (1, 0, 1, 2): (4, 5)}


@dataclass(frozen=True)
class SplitTree:
    """Every square that can be cut in an image of one size, and every region that can be left.

    Make it with ``split_tree``.

    Attributes:
      image_size: side of the image, in pixels.
      min_size: squares of up to ``min_size`` + 1 pixels a side are not cut.
      depth: sizes of squares that can be cut; there are (4^depth - 1) / 3 of them, Q.
    """

    image_size: int
    min_size: int
    depth: int

    @property
    def num_squares(self) -> int:
        """Q."""
        return (4**self.depth - 1) // 3

    @property
    def max_regions(self) -> int:
        """The largest number of regions."""
        return 4**self.depth

    @cached_property
    def level(self) -> Int[np.ndarray, "q"]:
        """Number of times the image's side was halved."""
        return np.repeat(np.arange(self.depth), 4 ** np.arange(self.depth))

    @cached_property
    def parent(self) -> Int[np.ndarray, "q"]:
        """Number of the square that a square is a quarter of; the whole image is its own."""
        return np.maximum(np.arange(self.num_squares) - 1, 0) // 4

    @cached_property
    def quadrant(self) -> Int[np.ndarray, "q"]:
        """Quarter of its parent: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
        return np.maximum(np.arange(self.num_squares) - 1, 0) % 4

    @cached_property
    def place(self) -> Int[np.ndarray, "q 2"]:
        """(column, row) of a square among those of its level."""
        place = np.zeros((self.num_squares, 2), np.int64)
        for square in range(1, self.num_squares):
            quadrant = self.quadrant[square]
            place[square] = 2 * place[self.parent[square]] + (quadrant % 2, quadrant // 2)
        return place

    @cached_property
    def capacity(self) -> Int[np.ndarray, "q"]:
        """Regions that cutting a square as finely as possible adds."""
        return 4 ** (self.depth - self.level) - 1

    @cached_property
    def quarter_capacity(self) -> Int[np.ndarray, "q"]:
        """The same of one of its quarters."""
        return 4 ** (self.depth - self.level - 1) - 1

    @cached_property
    def mirror(self) -> Int[np.ndarray, "q"]:
        """Number of the square in the same place of the mirrored image."""
        columns = (2**self.level - 1 - self.place[:, 0], self.place[:, 1])
        squares = zip(self.level, *self.place.T, strict=True)
        number = {square: i for i, square in enumerate(squares)}
        return np.array([number[square] for square in zip(self.level, *columns, strict=True)])

    # ---- What can be left of the image -----------------------------------------------------------

    @cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All regions in canonical order; the square that each hangs on; the patterns with it."""
        regions, squares, patterns = [], [], []

        def add(left, top, width, height, square, with_it):
            regions.append((left, top, left + width - 1, top + height - 1))
            squares.append(square)
            patterns.append(np.isin(np.arange(NUM_PATTERNS), with_it))

        for square, (level, place) in enumerate(zip(self.level, self.place, strict=True)):
            side = self.image_size >> level
            left, top = place * side
            add(left, top, side, side, square, (WHOLE,))
            half = side // 2
            for (x, y, w, h), with_it in _HALVES.items():
                add(left + x * half, top + y * half, w * half, h * half, square, with_it)
            if level == self.depth - 1:
                for quadrant in range(4):
                    x, y = quadrant % 2 * half, quadrant // 2 * half
                    with_it = np.flatnonzero(LEAVES_SQUARE[:, quadrant])
                    add(left + x, top + y, half, half, square, with_it)
        order = canonical_order(np.array(regions))
        return np.array(regions)[order], np.array(squares)[order], np.array(patterns)[order]

    @property
    def regions(self) -> Int[np.ndarray, "r 4"]:
        """Every region that a partition can have, in canonical order."""
        return self.table[0]

    @cached_property
    def geometry(self) -> Float32[np.ndarray, "r 5"]:
        """Their Gaussians."""
        return regions_to_geometry(self.regions, self.image_size, self.image_size)

    # ---- The codec -------------------------------------------------------------------------------

    def decode(self, patterns: Int[np.ndarray, "*n q"]) -> Bool[np.ndarray, "*n r"]:
        """Mask of ``regions`` that patterns leave: of any patterns, a set that tiles the image.

        The patterns of squares that do not occur are not looked at.
        """
        _, squares, with_it = self.table
        patterns = np.asarray(patterns)
        there = with_it[np.arange(len(squares)), patterns[..., squares]]
        return there & self.occurs(patterns, np)[..., squares]

    def encode(self, regions: Bool[np.ndarray, "n r"]) -> Int[np.ndarray, "n q"]:
        """The inverse of ``decode``: patterns, 0 for squares that do not occur.

        Raises:
          ValueError: if the regions of one do not tile the image; says which.
        """
        _, squares, with_it = self.table
        regions = np.asarray(regions)
        # Each region that is there rules patterns out; no pattern left to choose is four quarters.
        patterns = np.full((len(regions), self.num_squares), QUARTERS, np.int8)
        for square in range(self.num_squares):
            rows = np.flatnonzero((squares == square) & ~with_it[:, QUARTERS])
            seen, wanted = regions[:, rows], with_it[rows]  # [n, rows], [rows, patterns]
            fits = (seen[:, :, None] == wanted[None]).all(1)
            patterns[:, square] = np.where(fits.any(1), fits.argmax(1), QUARTERS)
        patterns = np.where(self.occurs(patterns, np), patterns, np.int8(WHOLE))
        wrong = np.flatnonzero((self.decode(patterns) != regions).any(-1))
        if wrong.size:
            raise ValueError(f"the regions of layout {wrong[0]} do not tile the image")
        return patterns

    def occurs(self, patterns: Array, xp: ModuleType = jnp) -> Array:
        """Mask of the squares that their parents' patterns leave, [..., Q]."""
        leaves = xp.asarray(LEAVES_SQUARE)
        levels = [xp.ones((*patterns.shape[:-1], 1), bool)]
        for level in range(1, self.depth):
            start, stop = (4 ** (level - 1) - 1) // 3, (4**level - 1) // 3
            children = leaves[patterns[..., start:stop]] & levels[-1][..., None]
            levels.append(children.reshape(*patterns.shape[:-1], -1))
        return xp.concatenate(levels, axis=-1)

    # ---- How many regions ------------------------------------------------------------------------

    def budget(self, patterns: Array, num_regions: Array | int) -> tuple[Array, Array]:
        """Tokens left to share out when each square's turn comes, [..., Q] each.

        Returns:
          remaining: regions still to be added, by this square and what follows.
          pending: how many the other squares known to occur by then can add.
        """
        occurs = self.occurs(patterns)
        added = jnp.where(occurs, jnp.asarray(EXTRA)[patterns], 0)
        quarters = jnp.asarray(LEAVES_SQUARE.sum(1))[patterns] * self.quarter_capacity
        known = jnp.where(occurs, quarters - self.capacity, 0)  # change of what can be added
        remaining = jnp.asarray(num_regions)[..., None] - 1 - _before(added)
        pending = self.capacity[0] + _before(known) - jnp.where(occurs, self.capacity, 0)
        return remaining, pending

    def allowed(self, remaining: Array, pending: Array, quarter_capacity: Array) -> Array:
        """The patterns after which the number of regions can still come out right, [..., 8].

        Some always can, if the number of regions was at most ``max_regions`` to begin with.
        """
        after = remaining[..., None] - EXTRA
        quarters = quarter_capacity[..., None] * LEAVES_SQUARE.sum(1)
        return (after >= 0) & (after <= pending[..., None] + quarters)

    # ---- Geometry --------------------------------------------------------------------------------

    def to_geometry(self, patterns: Int[np.ndarray, "n q"]) -> Float32[np.ndarray, "n l 5"]:
        """Gaussians in canonical order, all layouts with the same number of regions."""
        return np.stack([self.geometry[row] for row in self.decode(patterns)])

    def from_geometry(self, geometry: Float32[np.ndarray, "n l 5"]) -> Int[np.ndarray, "n q"]:
        """Patterns of layouts, in whichever order their Gaussians are.

        Raises:
          ValueError: for a layout that is no partition of this tree; says which.
        """
        patterns = np.empty((len(geometry), self.num_squares), np.int8)
        for start in range(0, len(geometry), _CHUNK):
            part = slice(start, start + _CHUNK)
            try:
                patterns[part] = self._from_geometry(geometry[part])
            except ValueError as error:
                raise ValueError(f"of the layouts from {start} on, {error}") from error
        return patterns

    def _from_geometry(self, geometry: np.ndarray) -> Int[np.ndarray, "n q"]:
        regions = geometry_to_regions(geometry, self.image_size, self.image_size)
        known, keys = _keys(self.regions), _keys(regions)
        order = np.argsort(known)
        rows = order[np.searchsorted(known, keys, sorter=order).clip(max=len(known) - 1)]
        if (strange := np.argwhere(known[rows] != keys)).size:
            image, token = strange[0]
            raise ValueError(
                f"layout {image} has the region {tuple(regions[image, token].tolist())}, which "
                f"halving an image of {self.image_size} pixels a side (min_size {self.min_size}) "
                "does not lead to"
            )
        found = np.zeros((len(regions), len(known)), bool)
        np.put_along_axis(found, rows, True, axis=1)
        return self.encode(found)


@struct.dataclass
class Turn:
    """State at a square's turn, for a batch of partitions.

    Attributes:
      square: its number.
      occurs: whether it occurs; if not, whatever is chosen is not looked at.
      above: the pattern of the square that it is a quarter of.
      remaining: regions still to be added, by it and what follows.
      pending: how many the other squares known to occur can add.
      allowed: the patterns that can be chosen.
    """

    square: Int[Array, ""]
    occurs: Bool[Array, "b"]
    above: Int[Array, "b"]
    remaining: Int[Array, "b"]
    pending: Int[Array, "b"]
    allowed: Bool[Array, "b 8"]


@cache
def split_tree(image_size: int, min_size: int = 8) -> SplitTree:
    """The tree of a square image.

    Raises:
      ValueError: if halving the image leads to odd sides that are cut again, so that its parts are
        no squares.
    """
    depth, side = 0, image_size
    while side - 1 > min_size:
        if side % 2:
            raise ValueError(
                f"an image of {image_size} pixels a side has no tree of squares: halving leads to "
                f"{side}, which is odd (min_size {min_size}); take a multiple of a power of two"
            )
        depth, side = depth + 1, side // 2
    if not depth:
        raise ValueError(f"an image of {image_size} pixels a side cannot be cut: it has one layout")
    tree = SplitTree(image_size, min_size, depth)
    assert tree.max_regions == max_regions(image_size, image_size, min_size)
    return tree


def canonical_order(regions: Int[np.ndarray, "n 4"]) -> Int[np.ndarray, "n"]:
    """The order of disjoint regions that networks are given: Z-order of their top left pixels.

    It is that of a walk through the tree, top left quarter first: regions that are close in the
    sequence are close in the image.
    """
    corners = np.asarray(regions)[:, :2]
    # In units of the smallest square, which has a power of two of them a side.
    left, top = (corners // max(np.gcd.reduce(corners, axis=None), 1)).T
    key = np.zeros(len(left), np.int64)
    for bit in range(16):
        key |= (left >> bit & 1) << 2 * bit | (top >> bit & 1) << 2 * bit + 1
    return np.argsort(key, kind="stable")


def walk(
    tree: SplitTree,
    num_regions: Int[Array, "b"],
    choose: Callable[[State, Turn], tuple[State, Array]],
    state: State,
) -> tuple[State, Int[Array, "b q"]]:
    """Goes through the squares of a batch of partitions and has one pattern after the other chosen.

    Args:
      tree: the squares.
      num_regions: L of each partition, 1 to ``tree.max_regions``.
      choose: from its state and a ``Turn`` to its new state and a pattern [B]; one that is not
        allowed is never asked for, so it must be among those that are.
      state: what ``choose`` starts with.

    Returns:
      its last state and the patterns.
    """
    batch = len(num_regions)
    leaves, extra = jnp.asarray(LEAVES_SQUARE), jnp.asarray(EXTRA)
    numbers = (jnp.arange(tree.num_squares), tree.parent, tree.quadrant)
    capacities = (tree.capacity, tree.quarter_capacity)

    def turn(carry, here):
        state, patterns, occurs, remaining, can_add = carry
        square, parent, quadrant, capacity, quarter_capacity = here
        left = occurs[:, parent] & leaves[patterns[:, parent], quadrant]
        now = jnp.where(square == 0, True, left)
        pending = can_add - jnp.where(now, capacity, 0)
        allowed = tree.allowed(remaining, pending, jnp.broadcast_to(quarter_capacity, batch))
        allowed = jnp.where(now[:, None], allowed, jnp.arange(NUM_PATTERNS) == WHOLE)
        above = patterns[:, parent]
        state, chosen = choose(state, Turn(square, now, above, remaining, pending, allowed))
        chosen = jnp.where(now, chosen, WHOLE)
        quarters = leaves[chosen].sum(1) * quarter_capacity
        can_add = pending + jnp.where(now, quarters, 0)
        patterns, occurs = patterns.at[:, square].set(chosen), occurs.at[:, square].set(now)
        return (state, patterns, occurs, remaining - extra[chosen], can_add), None

    nothing = jnp.zeros((batch, tree.num_squares), jnp.int32)
    can_add = jnp.full(batch, tree.capacity[0])
    carry = (state, nothing, nothing > 0, jnp.asarray(num_regions) - 1, can_add)
    (state, patterns, *_), _ = lax.scan(
        turn, carry, jax.tree.map(jnp.asarray, numbers + capacities)
    )
    return state, patterns


def constrain(
    tree: SplitTree, scores: Float[Array, "b q 8"], num_regions: Int[Array, "b"]
) -> Int[Array, "b q"]:
    """A valid partition out of any numbers: of each square the allowed pattern scored highest."""

    def choose(state, turn):
        here = jnp.where(turn.allowed, scores[:, turn.square], -jnp.inf)
        return state, jnp.argmax(here, axis=-1)

    return walk(tree, num_regions, choose, ())[1]


def _keys(regions: Int[np.ndarray, "*n 4"]) -> Int[np.ndarray, "*n"]:
    """A number of its own for each region of an image of up to 32768 pixels a side."""
    return regions @ (1 << np.array([45, 30, 15, 0]))


def _before(values: Array) -> Array:
    """Sum of the values before each, along the last axis."""
    return jnp.cumsum(values, axis=-1) - values
