"""Layout samplers for generation."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int, PRNGKeyArray

Labels = Int[np.ndarray, "b"] | Sequence[int]
Geometry = Float32[np.ndarray, "b l 5"]


class LayoutSampler(Protocol):
    """Draws layouts of a class.

    A layout hangs on its own key, label and number alone: not on the others of the call, how many
    there are or their order.

    Attributes:
      label_names: names of the classes that labels count.
      num_tokens: L.
      image_size: side of the images whose layouts these are, in pixels.
      description: one line for people.
      fingerprint: changes with everything that layouts are drawn from.
    """

    label_names: tuple[str, ...]
    num_tokens: int
    image_size: int
    description: str
    fingerprint: str

    def sample(self, keys: PRNGKeyArray, labels: Labels, numbers: Labels | None = None) -> Geometry:
        """One layout a key.

        Args:
          keys: [B], one an image.
          labels: [B] classes; -1 for any.
          numbers: [B], of each image among those of its class; for samplers that go in turn.

        Raises:
          ValueError: for a label that is none, or of which no layout can be drawn.
        """
        ...

    def check(self, label: int, number: int) -> None:
        """Checks, before any is drawn, that there is a layout for image ``number`` of a class.

        Raises:
          ValueError: if not; says why.
        """
        ...


def check_labels(
    labels: Labels, label_names: tuple[str, ...], untrained: Sequence[int] = ()
) -> Int[np.ndarray, "b"]:
    """Labels as an array.

    Raises:
      ValueError: for one outside -1 .. len(label_names) - 1, or that a network never saw.
    """
    labels = np.asarray(labels, np.int32).reshape(-1)
    wrong = labels[(labels < -1) | (labels >= len(label_names))]
    if wrong.size:
        raise ValueError(f"label {wrong[0]} is none of -1 .. {len(label_names) - 1}")
    for label in np.intersect1d(labels, np.asarray(untrained, np.int32)).tolist():
        name = "no class" if label < 0 else f"class {label_names[label]!r}"
        raise ValueError(f"no layout can be drawn of {name}: there was none in the training")
    return labels
