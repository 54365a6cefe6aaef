"""The plainest stage 1: a layout of a class is one of that class's training layouts."""

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from gpstoken_jax.generation.layouts.file import Layouts
from gpstoken_jax.generation.layouts.sampler import Geometry, Labels, check_labels
from gpstoken_jax.runtime.checkpoint import params_checksum


class EmpiricalSampler:
    """Takes layouts from a set of them; a ``LayoutSampler``."""

    def __init__(self, layouts: Layouts, *, in_turn: bool = False):
        """Keeps the set.

        Args:
          layouts: the set.
          in_turn: go through those of a class from the last to the first, none twice, as the
            published generator does; otherwise each is as likely as any other, every time.
        """
        self._in_turn = in_turn
        self.label_names = layouts.label_names
        self.num_tokens = layouts.num_tokens
        self.image_size = layouts.image_size
        self.description = (
            f"{'in turn' if in_turn else 'one'} of {len(layouts)} layouts ({layouts.source})"
        )
        self._geometry = layouts.geometry
        by_class = [np.flatnonzero(layouts.label == i) for i in range(len(self.label_names))]
        self._rows = [*by_class, np.arange(len(layouts))]  # label -1, any, finds the last
        self.fingerprint = f"{params_checksum((layouts.geometry, layouts.label)):08x}"
        if in_turn:
            self.fingerprint += " in turn"

    def sample(self, keys: PRNGKeyArray, labels: Labels, numbers: Labels | None = None) -> Geometry:
        """One layout a key; see ``LayoutSampler``."""
        labels = check_labels(labels, self.label_names)
        for label in np.unique(labels):
            self.check(label, 0)
        if self._in_turn:
            return self._geometry[self._rows_in_turn(labels, numbers)]
        draws = np.asarray(jax.vmap(lambda key: jax.random.bits(key, dtype="uint32"))(keys))
        rows = [
            self._rows[label][draw % len(self._rows[label])]
            for label, draw in zip(labels, draws.tolist(), strict=True)
        ]
        return self._geometry[rows]

    def check(self, label: int, number: int) -> None:
        """Checks that there is a layout for image ``number`` of a class.

        Raises:
          ValueError: if there is none, or, taken in turn, none is left; says how many there are.
        """
        count = len(self._rows[label])
        if not count:
            raise ValueError(f"there is no layout of class {self.label_names[label]!r}")
        if self._in_turn and number >= count:
            name = "any" if label < 0 else repr(self.label_names[label])
            raise ValueError(
                f"class {name} has {count} layouts, and {number + 1} images need as many: make "
                "fewer, or let some come twice (generate --noin_turn)"
            )

    def _rows_in_turn(self, labels: np.ndarray, numbers: Labels | None) -> list[int]:
        if numbers is None:
            raise ValueError("layouts in turn need the numbers of the images in their classes")
        taken = []
        for label, number in zip(labels.tolist(), np.asarray(numbers).tolist(), strict=True):
            self.check(label, number)
            taken.append(self._rows[label][-1 - number])
        return taken
