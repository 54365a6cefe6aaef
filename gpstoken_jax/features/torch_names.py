"""Flax variables under the names of a PyTorch state dict: layers' names joined by dots.

A network whose submodules carry the names of the PyTorch ones needs no table of its own: what a
parameter is called and how its axes lie follows from the kind of the parameter.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("params", "layer_scale"): "layer_scale",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
_Path = tuple[str, ...]


def variable_shapes(network: nn.Module, *arguments: jax.ShapeDtypeStruct) -> dict[_Path, tuple]:
    """Shapes of a network's variables by path, found without computing anything."""
    tree = jax.eval_shape(network.init, jax.random.key(0), *arguments)
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree).items()}


def torch_name(path: _Path) -> str:
    """`("params", "Mixed_5b", "branch1x1", "conv", "kernel")`: `Mixed_5b.branch1x1.conv.weight`."""
    return ".".join((*path[1:-1], _LEAVES[path[0], path[-1]]))


def torch_shape(path: _Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that PyTorch gives a variable."""
    if path[-1] == "layer_scale":
        return (*shape, 1, 1)
    return (*shape[:-3:-1], *shape[:-2]) if path[-1] == "kernel" else shape


def variables_from_torch(
    shapes: Mapping[_Path, tuple], tensors: Mapping[str, np.ndarray]
) -> dict[str, dict]:
    """Variables for `network.apply`, from tensors that have the names and shapes of PyTorch."""
    return traverse_util.unflatten_dict(
        {
            path: jnp.asarray(_axes_last(tensors[torch_name(path)], path).reshape(shape))
            for path, shape in shapes.items()
        }
    )


def _axes_last(tensor: np.ndarray, path: _Path) -> np.ndarray:
    """Output and input channels last, as Flax has a kernel's; the sides stay in order."""
    if path[-1] != "kernel":
        return tensor
    return tensor.transpose(*range(2, tensor.ndim), 1, 0)
