"""The plainest stage 1: a layout of a class is one of that class's training layouts."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float32, Int, PRNGKeyArray

from gpstoken_jax.generation.layouts.file import Layouts
from gpstoken_jax.generation.layouts.sampler import check_labels
from gpstoken_jax.runtime.checkpoint import params_checksum


class EmpiricalSampler:
    """Draws from a set of layouts, each of a class as likely as any other; a ``LayoutSampler``."""

    def __init__(self, layouts: Layouts):
        self.label_names = layouts.label_names
        self.num_tokens = layouts.num_tokens
        self.image_size = layouts.image_size
        self.description = f"one of {len(layouts)} layouts ({layouts.source})"
        self._geometry = layouts.geometry
        by_class = [np.flatnonzero(layouts.label == i) for i in range(len(self.label_names))]
        self._rows = [*by_class, np.arange(len(layouts))]  # label -1, any, finds the last
        self.fingerprint = f"{params_checksum((layouts.geometry, layouts.label)):08x}"

    def sample(
        self, keys: PRNGKeyArray, labels: Int[np.ndarray, "b"] | Sequence[int]
    ) -> Float32[np.ndarray, "b l 5"]:
        """One layout a key; see ``LayoutSampler``."""
        labels = check_labels(labels, self.label_names)
        for label in np.unique(labels):
            if not len(self._rows[label]):
                raise ValueError(f"there is no layout of class {self.label_names[label]!r}")
        draws = np.asarray(jax.vmap(lambda key: jax.random.bits(key, dtype="uint32"))(keys))
        rows = [
            self._rows[label][draw % len(self._rows[label])]
            for label, draw in zip(labels, draws.tolist(), strict=True)
        ]
        return self._geometry[rows]
