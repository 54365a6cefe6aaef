"""Weights that anyone can make again: large networks are compared without downloading anything.

The golden values of the loss networks were measured with weights drawn by this rule, from a seed
and the name of each tensor in the PyTorch state dict.
"""

import zlib
from collections.abc import Mapping

import numpy as np

SEEDS = {"disc": 6002, "lpips": 6003, "inception": 6004, "convnext": 6005}


def recipe_tensor(seed: int, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 (or, for a counter, int64) tensor of one key of a state dict."""
    kind = key.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    z = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape)
    return np.asarray(_scaled(z, key, kind), np.float32)


def _scaled(z: np.ndarray, key: str, kind: str) -> np.ndarray:
    if kind == "layer_scale":
        return 0.3 + 0.1 * z
    if kind == "running_var":
        return 1 + 0.2 * np.abs(z)
    if kind != "weight":  # a bias or a running mean
        return 0.1 * z
    if key.startswith("lin") and ".model." in key:  # LPIPS's weights of channels
        return 0.1 * np.abs(z)
    if z.ndim == 1:  # a norm
        return 1 + 0.1 * z
    gain = 2 if z.ndim == 4 else 1
    return z * np.sqrt(gain / np.prod(z.shape[1:]))


def recipe_state_dict(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A whole state dict from the shapes of its tensors."""
    return {key: recipe_tensor(seed, key, tuple(shape)) for key, shape in shapes.items()}
