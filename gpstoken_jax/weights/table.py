"""Published PyTorch tensors and Flax parameters: a table of which is which, read both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

Tensors = Mapping[str, np.ndarray]

# A Flax axis order from a PyTorch one, by kind of parameter; all but the last are their own inverse
# together with the entry of _TO_TORCH.
_FROM_TORCH = {
    "conv": lambda t: t.transpose(2, 3, 1, 0),
    "dense": lambda t: t.T,
    "pointwise": lambda t: t[:, :, 0, 0].T,
    "vector": lambda t: t,
    "row": lambda t: t[0],
}
_TO_TORCH = {
    "conv": lambda p: p.transpose(3, 2, 0, 1),
    "dense": lambda p: p.T,
    "pointwise": lambda p: p.T[:, :, None, None],
    "vector": lambda p: p,
    "row": lambda p: p[None],
}


@dataclass(frozen=True)
class Parameter:
    """One Flax parameter and where it comes from.

    Attributes:
      path: names from the root of the Flax parameters.
      keys: PyTorch keys; more than one are stacked along ``axis``.
      kind: how the axes move, a key of the tables above.
      axis: the stacking axis, None for a single tensor.
    """

    path: tuple[str, ...]
    keys: tuple[str, ...]
    kind: str
    axis: int | None = None


class WeightsError(ValueError):
    """Weights and config do not fit; the message names the keys."""


class TensorSpec(NamedTuple):
    """Shape and dtype of a tensor, as much of it as a check needs."""

    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class WeightTable:
    """Every parameter of a network, each once, and the tensors that it is made of.

    Attributes:
      entries: one a parameter.
      shapes: the network's parameters, as ``jax.eval_shape`` has them (without ``"params"``).
      unused: tensors of published files that no computation uses.
    """

    entries: Sequence[Parameter]
    shapes: Any
    unused: Mapping[str, TensorSpec]

    @cached_property
    def used(self) -> dict[str, TensorSpec]:
        """Every tensor of the published state dict that the network uses, by key."""
        flat, tensors = traverse_util.flatten_dict(self.shapes), {}
        for entry in self.entries:
            leaf = flat[entry.path]
            tensors |= _scatter(entry, np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape))
        return {key: TensorSpec(tensor.shape, tensor.dtype) for key, tensor in tensors.items()}

    @property
    def roots(self) -> set[str]:
        """First parts of the names in the published state dict."""
        return {key.split(".")[0] for key in self.used}

    def from_torch(self, tensors: Tensors) -> dict:
        """Flax parameters, ``{"params": ...}``, from a published state dict.

        Raises:
          WeightsError: as of ``check``.
        """
        self.check(tensors)
        return traverse_util.unflatten_dict(
            {("params", *entry.path): _gather(entry, tensors) for entry in self.entries}
        )

    def to_torch(self, params: Mapping) -> dict[str, np.ndarray]:
        """The inverse of ``from_torch``; tensors that nothing uses come out as zeros."""
        flat = traverse_util.flatten_dict(params["params"])
        tensors = {}
        for entry in self.entries:
            tensors |= _scatter(entry, np.asarray(flat[entry.path]))
        tensors = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
        return tensors | {key: np.zeros(*spec) for key, spec in self.unused.items()}

    def check(self, tensors: Mapping[str, Any]) -> None:
        """Compares names, shapes and dtypes with those of the network.

        Args:
          tensors: PyTorch key -> array, or anything else with ``shape`` and ``dtype``.

        Raises:
          WeightsError: if anything differs; lists what is missing, extra, or of a wrong shape or
            dtype.
        """
        used = self.used
        expected = used | {k: spec for k, spec in self.unused.items() if k in tensors}
        common = [key for key in expected if key in tensors]
        problems = {
            "missing": [key for key in used if key not in tensors],
            "extra": sorted(key for key in tensors if key not in expected),
            "of a wrong shape": [
                f"{key} is {_shape(tensors[key].shape)}, not {_shape(expected[key].shape)}"
                for key in common
                if tuple(tensors[key].shape) != expected[key].shape
            ],
            "of a wrong dtype": [
                f"{key} is {tensors[key].dtype}, not {expected[key].dtype}"
                for key in common
                if str(tensors[key].dtype) != str(expected[key].dtype)
            ],
        }
        found = [f"  {len(v)} {kind}: {_few(v)}" for kind, v in problems.items() if v]
        if found:
            raise WeightsError("\n".join(["the weights are not those of this config:", *found]))


def layer(path: tuple[str, ...], key: str, kind: str) -> list[Parameter]:
    """Entries of a layer's weight and bias; ``kind`` is "norm" or a kind of weight."""
    leaf, kind = ("scale", "vector") if kind == "norm" else ("kernel", kind)
    return [
        Parameter((*path, leaf), (f"{key}.weight",), kind),
        Parameter((*path, "bias"), (f"{key}.bias",), "vector"),
    ]


def stacked(path: tuple[str, ...], blocks: list[str], key: str, kind: str, axis: int) -> Parameter:
    """The entry of a parameter that all blocks have, stacked along ``axis``."""
    return Parameter(path, tuple(f"{block}.{key}" for block in blocks), kind, axis)


def _gather(entry: Parameter, tensors: Tensors) -> np.ndarray:
    parts = [_FROM_TORCH[entry.kind](np.asarray(tensors[key])) for key in entry.keys]
    value = parts[0] if entry.axis is None else np.stack(parts, axis=entry.axis)
    return np.ascontiguousarray(value)


def _scatter(entry: Parameter, value: np.ndarray) -> dict[str, np.ndarray]:
    """A parameter's tensors by key; views of it."""
    parts = [value] if entry.axis is None else list(np.moveaxis(value, entry.axis, 0))
    return {key: _TO_TORCH[entry.kind](part) for key, part in zip(entry.keys, parts, strict=True)}


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a scalar"


def _few(items: list[str], most: int = 8) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
