"""What the runner knows of a cell: how much work it is, and how to begin."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool

from gpstoken_jax.data.loader import Unreadable
from gpstoken_jax.evaluation.evaluator import Evaluator


class Batches(Protocol):
    """Batches of images, and what of them could not be read so far."""

    unreadable: Unreadable

    def __iter__(self): ...


@dataclass(frozen=True)
class Subject:
    """A cell with its weights loaded.

    Attributes:
      protocol: everything that its figures depend on.
      title: a line for the report.
      label: what a table calls the evaluated method.
      evaluator: measures batches.
      batches: of all images, or of those at the positions given.
      inside: the focus, to be outlined in drawings.
    """

    protocol: dict
    title: str
    label: str
    evaluator: Evaluator
    batches: Callable[[Iterable[int] | None], Batches]
    inside: Bool[np.ndarray, "h w"] | None = None


@dataclass(frozen=True)
class Job:
    """A cell that has been looked at but not begun.

    Attributes:
      name: of the cell; also of its directory.
      place: the checkpoint or folder, for messages.
      num_images: of all processes together.
      pixels: of all its images, in proportion to which the time left is guessed.
      description: a line for the screen.
      open: loads weights; raises what ``cli.USER_ERRORS`` lists.
    """

    name: str
    place: Path
    num_images: int
    pixels: int
    description: str
    open: Callable[[], Subject]
