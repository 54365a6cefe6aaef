"""One decoded image, and the interface of a data set that has many."""

import dataclasses
import functools
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from gpstoken_jax.data.resize import Picture, size_of, to_array


@dataclasses.dataclass(frozen=True)
class Example:
    """One decoded image with what is known about it.

    Attributes:
        picture: Upright RGB in 0..255, as an array or a PIL image.
        label: Index into the source's `label_names`, or -1.
        name: Path relative to the folder it came from, or the data set's own file name.
        original_size: (height, width) before `picture` was cut; None if it is all of it.
    """

    picture: Picture
    label: int
    name: str
    original_size: tuple[int, int] | None = None

    @functools.cached_property
    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture as an array, which may be read-only."""
        return to_array(self.picture)

    @property
    def size(self) -> tuple[int, int]:
        """Original (height, width), upright."""
        return self.original_size or size_of(self.picture)


class ImageSource(Protocol):
    """Interface of a data set to the loader."""

    label_names: tuple[str, ...]
    description: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """Name of an image."""

    def fingerprint(self, *, content: bool = False) -> str:
        """A digest that changes with the images, their names or their classes."""
