"""The small published generator, its weights and what it was measured to do."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file

from gpstoken_jax.configs import sit_common
from gpstoken_jax.generation.sit import SiT, create_sit
from gpstoken_jax.weights.published import sit_table


class Golden:
    """Arrays of sit_tiny.npz by name; tokens as [B, L, C]."""

    def __init__(self, path):
        self._arrays = np.load(path)

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._arrays[name]
        if array.dtype == np.int64:
            return array.astype(np.int32)
        return array[..., 0].swapaxes(-1, -2) if array.ndim >= 4 else array


@pytest.fixture(scope="session")
def golden(golden_dir) -> Golden:
    return Golden(golden_dir / "sit_tiny.npz")


@pytest.fixture(scope="session")
def tensors(golden_dir):
    return load_file(golden_dir / "sit_tiny_weights.safetensors")


@pytest.fixture(scope="session")
def config() -> ConfigDict:
    config = sit_common.get_config().model
    config.update(num_tokens=16, channels=21, num_classes=10, width=96, depth=2, num_heads=6)
    return config


@pytest.fixture(scope="session")
def sit(config) -> SiT:
    return create_sit(config)


@pytest.fixture(scope="session")
def params(tensors, config):
    return sit_table(config).from_torch(tensors)
