"""Full-size weights by a seeded rule, and a photo: what benchmarks and checks run on.

The published weights are hundreds of megabytes; these have their names, shapes and size of values.
"""

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gpstoken_jax.configs import gpstoken_l256, gpstoken_m128
from gpstoken_jax.model.gpstoken import GPSToken
from gpstoken_jax.partition.images import partition_images
from gpstoken_jax.weights.published import tokenizer_table

GOLDEN = Path(__file__).parent / "golden"
CONFIGS = {"M128": gpstoken_m128, "L256": gpstoken_l256}


def by_rule(shapes: dict[str, list[int]], seed: int = 7001) -> dict[str, np.ndarray]:
    """A state dict; every key has its own generator, so the order of keys does not matter."""
    tensors = {}
    for key, shape in shapes.items():
        z = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape)
        if key.endswith("bias"):
            z *= 0.1
        elif len(shape) == 1:
            z = 1 + 0.1 * z
        else:
            z *= math.sqrt((2 if len(shape) == 4 else 1) / math.prod(shape[1:]))
        if key.startswith("to_gps"):
            z *= 0.1  # tokens stay near their start, as trained ones do
        tensors[key] = z.astype(np.float32)
    return tensors


@dataclass(frozen=True)
class FullSize:
    """A full-size model and its arguments for one photo."""

    config: ConfigDict
    tensors: dict[str, np.ndarray]
    params: Any
    image: np.ndarray
    geometry: np.ndarray
    boxes: np.ndarray

    def method(self, name: str):
        """``encode`` or ``decode``, compiled."""
        model = GPSToken(self.config.model)
        return jax.jit(lambda params, *args: model.apply(params, *args, method=name))


def full_size(name: str, photo: str = "astronaut_c") -> FullSize:
    """The model called ``name`` (a key of CONFIGS) and a photo of the reference data."""
    config = CONFIGS[name].get_config()
    tensors = by_rule(json.loads((GOLDEN / "parameter_shapes.json").read_text())[name])
    params = jax.device_put(tokenizer_table(config.model).from_torch(tensors))
    image = np.load(GOLDEN / "partition.npz")[f"{photo}/rgb_u8"][None] / np.float32(127.5) - 1
    geometry, boxes = (np.array(a) for a in partition_images(image, **config.partition))
    return FullSize(config, tensors, params, image, geometry, boxes)
