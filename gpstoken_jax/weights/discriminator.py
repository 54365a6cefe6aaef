"""The discriminator of a training checkpoint that the release wrote.

It is the PatchGAN of Isola et al. 2017 as a sequence of layers: ``main.0`` the first convolution,
then by threes a convolution without bias, a batch norm and an activation, last a convolution.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.files import read_specs, read_tensors
from gpstoken_jax.weights.table import Parameter, WeightTable

_FIRST = "main.0.weight"


class PublishedDiscriminator(NamedTuple):
    """Variables of ``losses.adversarial.PatchDiscriminator``, and the file that they are from."""

    path: Path
    params: dict[str, Any]
    batch_stats: dict[str, Any]


def find_discriminator(files: Sequence[Path], config: ConfigDict) -> PublishedDiscriminator | None:
    """Finds the discriminator among the files of a checkpoint; None if there is none.

    Args:
      files: that hold none of the main network.
      config: the whole config of the tokenizer.

    Raises:
      WeightsError: if it does not fit the config; names the file, the tensors and both shapes.
    """
    if not config.gan.weight or config.gan.discriminator.norm != "batch":
        return None
    for path in files:
        specs = read_specs(path)
        first = next((key for key in specs if f".{key}".endswith(f".{_FIRST}")), None)
        if first is None:
            continue
        prefix = first.removesuffix(_FIRST)
        tensors = {key.removeprefix(prefix): tensor for key, tensor in read_tensors(path).items()}
        params, stats = discriminator_tables(config.gan.discriminator)
        try:
            return PublishedDiscriminator(
                path, params.from_torch(tensors)["params"], stats.from_torch(tensors)["params"]
            )
        except WeightsError as error:
            raise WeightsError(
                f"the discriminator of {path} does not fit the config: {error}; give its size as "
                "--config.gan.discriminator.channels and .num_layers, or start without it: "
                "--config.gan.weight=0"
            ) from error
    return None


def discriminator_tables(config: ConfigDict) -> tuple[WeightTable, WeightTable]:
    """Parameters and running statistics; ``config`` is a section ``gan.discriminator``."""
    layers, widths = config.num_layers, [3]
    widths += [config.channels * min(2**i, 8) for i in range(config.num_layers + 1)] + [1]
    params, stats = [], []
    for i in range(layers + 2):
        number = max(3 * i - 1, 0)
        shape = (widths[i + 1], widths[i], 4, 4)
        params.append(Parameter(f"conv_{i}/kernel", (f"main.{number}.weight",), shape, "conv"))
        if i in (0, layers + 1):
            params.append(_vector(f"conv_{i}/bias", f"main.{number}.bias", shape[0]))
        else:
            norm = f"main.{number + 1}"
            params += [
                _vector(f"norm_{i}/scale", f"{norm}.weight", shape[0]),
                _vector(f"norm_{i}/bias", f"{norm}.bias", shape[0]),
            ]
            stats += [
                _vector(f"norm_{i}/{name}", f"{norm}.running_{name}", shape[0])
                for name in ("mean", "var")
            ]
    return WeightTable(params, {}), WeightTable(stats, {})


def _vector(path: str, key: str, size: int) -> Parameter:
    return Parameter(path, (key,), (size,), "vector")
