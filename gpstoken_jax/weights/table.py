"""Published PyTorch tensors and Flax parameters: a table of which is which, read both ways."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import traverse_util

from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.files import Tensors

FLOATS = frozenset({"float64", "float32", "float16", np.dtype(ml_dtypes.bfloat16).name})

# A Flax axis order from a PyTorch one and back, by kind of parameter.
_KINDS = {
    "conv": (lambda t: t.transpose(2, 3, 1, 0), lambda p: p.transpose(3, 2, 0, 1)),
    "dense": (lambda t: t.T, lambda p: p.T),
    "pointwise": (lambda t: t[:, :, 0, 0].T, lambda p: p.T[:, :, None, None]),
    "vector": (lambda t: t, lambda p: p),
    "row": (lambda t: t[0], lambda p: p[None]),
}


@dataclass(frozen=True)
class Parameter:
    """One Flax parameter and where it comes from.

    Attributes:
      path: names from the root of the Flax parameters, joined by slashes.
      keys: PyTorch keys; more than one are stacked along ``axis``.
      shape: of each of the PyTorch tensors.
      kind: how the axes move, a key of the table above.
      axis: the stacking axis, None for a single tensor.
    """

    path: str
    keys: tuple[str, ...]
    shape: tuple[int, ...]
    kind: str
    axis: int | None = None

    @property
    def flax_shape(self) -> tuple[int, ...]:
        """Shape of the Flax parameter."""
        shape = list(_KINDS[self.kind][0](np.broadcast_to(np.float32(0), self.shape)).shape)
        if self.axis is not None:
            shape.insert(self.axis, len(self.keys))
        return tuple(shape)

    def to_flax(self, tensors: Tensors) -> np.ndarray:
        """The parameter in float32, whatever float type the tensors have."""
        parts = [_KINDS[self.kind][0](np.asarray(tensors[key], np.float32)) for key in self.keys]
        value = parts[0] if self.axis is None else np.stack(parts, axis=self.axis)
        return np.ascontiguousarray(value)

    def to_torch(self, value: np.ndarray) -> dict[str, np.ndarray]:
        """The parameter's tensors by key."""
        parts = [value] if self.axis is None else list(np.moveaxis(value, self.axis, 0))
        back = _KINDS[self.kind][1]
        return {k: np.ascontiguousarray(back(p)) for k, p in zip(self.keys, parts, strict=True)}


@dataclass(frozen=True)
class WeightTable:
    """Every parameter of a network, each once, and the tensors that it is made of.

    Attributes:
      entries: one a parameter.
      unused: tensors of published files that no computation uses: key -> shape.
    """

    entries: Sequence[Parameter]
    unused: Mapping[str, tuple[int, ...]]

    @cached_property
    def used(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the published state dict that the network uses: key -> shape."""
        return {key: entry.shape for entry in self.entries for key in entry.keys}

    @property
    def roots(self) -> set[str]:
        """First parts of the names in the published state dict."""
        return {key.split(".")[0] for key in self.used}

    @property
    def shapes(self) -> dict[str, Any]:
        """The parameters as ``jax.eval_shape`` has them, ``{"params": ...}``."""
        return self._tree(lambda entry: jax.ShapeDtypeStruct(entry.flax_shape, jnp.float32))

    def from_torch(self, tensors: Tensors) -> dict[str, Any]:
        """Flax parameters, ``{"params": ...}``, float32, from a published state dict.

        Tensors of any float type are read; those that the network does not have are passed over.

        Raises:
          WeightsError: as of ``check``, or if a value is not finite.
        """
        self.check(tensors)
        complain({"not finite": [key for key in self.used if not np.isfinite(tensors[key]).all()]})
        return self._tree(lambda entry: entry.to_flax(tensors))

    def to_torch(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The inverse of ``from_torch``; tensors that nothing uses come out as zeros."""
        flat = traverse_util.flatten_dict(params["params"], sep="/")
        tensors = {key: np.zeros(shape, np.float32) for key, shape in self.unused.items()}
        for entry in self.entries:
            tensors |= entry.to_torch(np.asarray(flat[entry.path]))
        return tensors

    def check(self, tensors: Mapping[str, Any]) -> dict[str, str]:
        """Compares names, shapes and types with those of the network.

        Args:
          tensors: PyTorch key -> array, or anything else with ``shape`` and ``dtype``.

        Returns:
          Tensors that the network does without, each with the reason.

        Raises:
          WeightsError: lists what is missing, of another shape, or holds no floats.
        """
        known = self.used | {k: s for k, s in self.unused.items() if k in tensors}
        problems = {
            "missing": [key for key in self.used if key not in tensors],
            "of another shape": [
                f"{key} is {show_shape(tensors[key].shape)}, not {show_shape(shape)}"
                for key, shape in known.items()
                if key in tensors and tuple(tensors[key].shape) != shape
            ],
            "of another type": [
                f"{key} is {tensors[key].dtype}, not a float of 16, 32 or 64 bits"
                for key in known
                if key in tensors and str(tensors[key].dtype) not in FLOATS
            ],
        }
        complain(problems)
        left = {key: "not a part of this network" for key in sorted(tensors) if key not in known}
        return left | {
            key: "in every published file, used by nothing" for key in self.unused if key in tensors
        }

    @property
    def num_parameters(self) -> int:
        """Values that the network has."""
        return sum(map(math.prod, self.used.values()))

    def _tree(self, leaf: Callable[[Parameter], Any]) -> dict[str, Any]:
        flat = {f"params/{entry.path}": leaf(entry) for entry in self.entries}
        return traverse_util.unflatten_dict(flat, sep="/")


def show_shape(shape: Sequence[int]) -> str:
    """``"3 x 16"``."""
    return " x ".join(map(str, shape)) or "a scalar"


def complain(problems: Mapping[str, Sequence[str]], most: int = 4) -> None:
    """Raises WeightsError, in one line, if any kind of problem has entries; names some of each."""
    found = [
        f"{len(items)} {kind} ({', '.join(items[:most])}{', ...' if len(items) > most else ''})"
        for kind, items in problems.items()
        if items
    ]
    if found:
        raise WeightsError("; ".join(found))
