"""Sizes of the pictures that a model makes of a photo, and how many tokens they hold.

A photo of any shape is cut to the nearest of a few shapes and seen through grids of tiles from
coarse to fine, all of that shape: few tokens make a small picture, many a large one. The numbers of
tokens that a tile can have are few as well, so that everything is compiled once and beforehand.
"""

import math
from dataclasses import dataclass
from typing import Self

from ml_collections import ConfigDict

from gpstoken_jax.partition.regions import max_regions

Grid = tuple[int, int]

MIN_TOKENS, MAX_TOKENS = 8, 1024
# Of a picture; so large a one is decoded in about a tenth of a second on two cores.
MAX_PIXELS = 384 * 256
_SHAPES: tuple[Grid, ...] = ((1, 1), (2, 3), (3, 2), (1, 2), (2, 1))
_STOPS = (1, 2, 4, *sorted(n << k for n in (2, 3) for k in range(2, 10)))  # ..., 8, 12, 16, 24


@dataclass(frozen=True)
class Sizes:
    """The sizes that fit one model.

    Attributes:
      tile: side in pixels of the images that the model was trained on.
      stops: how many tokens a tile can have, in ascending order.
      trained: how many it had in training.
      shapes: grids of the coarsest pictures.
      finer: how many times finer, along a side, the others are.
    """

    tile: int
    stops: tuple[int, ...]
    trained: int
    shapes: tuple[Grid, ...]
    finer: tuple[int, ...] = (1, 2, 3, 4)

    @classmethod
    def of(cls, config: ConfigDict) -> Self:
        """Sizes for a tokenizer's config."""
        tile = config.model.image_size
        most = min(MAX_TOKENS, max_regions(tile, tile, config.partition.min_size))
        stops = tuple(stop for stop in _STOPS if stop < most)
        shapes = tuple(s for s in _SHAPES if s == (1, 1) or math.prod(s) * tile**2 <= MAX_PIXELS)
        return cls(tile, (*stops, most), config.partition.num_tokens, shapes)

    def ladder(self, height: int, width: int) -> tuple[Grid, ...]:
        """The grids, from coarse to fine, of the shape that is nearest to a photo's."""
        rows, cols = min(
            self.shapes, key=lambda shape: abs(math.log(shape[1] * height / (shape[0] * width)))
        )
        grids = ((rows * k, cols * k) for k in self.finer)
        fits = [grid for grid in grids if math.prod(grid) * self.tile**2 <= MAX_PIXELS]
        return tuple(fits) or ((rows, cols),)

    def grid_for(self, ladder: tuple[Grid, ...], wanted: int) -> Grid:
        """The grid whose tiles have nearest to as many tokens as in training; the finer of two."""
        fits = [
            grid
            for grid in ladder
            if math.prod(grid) * self.stops[0] <= wanted <= math.prod(grid) * self.stops[-1]
        ]

        def misfit(grid: Grid) -> float:
            return abs(math.log(wanted / math.prod(grid) / self.trained))

        return min(reversed(fits), key=misfit)

    def by_use(self) -> list[int]:
        """The stops, those first that are most used: about as many as in training."""
        return sorted(self.stops, key=lambda stop: abs(math.log(stop / self.trained)))

    def pixels(self, grid: Grid) -> tuple[int, int]:
        """(height, width) of a picture."""
        return grid[0] * self.tile, grid[1] * self.tile

    def range(self, ladder: tuple[Grid, ...]) -> tuple[int, int]:
        """The smallest and the largest number of tokens of a photo."""
        least = max(MIN_TOKENS, math.prod(ladder[0]) * self.stops[0])
        return least, min(MAX_TOKENS, math.prod(ladder[-1]) * self.stops[-1])

    def has(self, grid: Grid) -> bool:
        """Tells whether some photo has pictures of a grid."""
        return any(grid in self.ladder(*shape) for shape in self.shapes)
