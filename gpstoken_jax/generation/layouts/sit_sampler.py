"""Layouts drawn from a SiT over the sequence of Gaussians: near partitions, rarely exact."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax.generation import samplers
from gpstoken_jax.generation.guidance import Guidance
from gpstoken_jax.generation.layouts.batching import map_in_batches
from gpstoken_jax.generation.layouts.sampler import Geometry, Labels, check_labels
from gpstoken_jax.generation.samplers import Sampler
from gpstoken_jax.generation.sit import SiT, init_params
from gpstoken_jax.generation.transport import Transport
from gpstoken_jax.runtime.checkpoint import params_checksum
from gpstoken_jax.runtime.compiling import announced
from gpstoken_jax.runtime.run_directory import load_weights

CHANNELS = 5
_SMALLEST = 1e-4  # sigma of a Gaussian, whatever was drawn


def to_values(
    geometry: Float[np.ndarray, "*n 5"], statistics: Mapping[str, Sequence[float]] | None = None
) -> Float32[np.ndarray, "*n 5"]:
    """Targets of the network: binary logarithms of sigma, rho and mu, each normalised.

    Halving regions again and again makes logarithms of sigma that lie evenly.
    """
    values = np.array(geometry, np.float32)
    values[..., :2] = np.log2(values[..., :2])
    if statistics is None:
        return values
    mean, std = (np.array(statistics[key], np.float32) for key in ("mean", "std"))
    return (values - mean) / std


def to_geometry(
    values: Float[Array, "*n 5"], statistics: Mapping[str, Sequence[float]]
) -> Float[Array, "*n 5"]:
    """The inverse of ``to_values``, of any values: sigma in (0, 1), rho 0, mu in [-1, 1]."""
    values = values * jnp.array(statistics["std"]) + jnp.array(statistics["mean"])
    sigma = jnp.exp2(values[..., :2]).clip(_SMALLEST, 1 - _SMALLEST)
    rho = jnp.zeros_like(values[..., 2:3])
    return jnp.concatenate([sigma, rho, values[..., 3:].clip(-1, 1)], axis=-1)


def measure(geometry: Float[np.ndarray, "n l 5"]) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of each channel; 1 for one that never changes (rho)."""
    values = to_values(geometry).reshape(-1, CHANNELS).astype(np.float64)
    std = values.std(axis=0)
    std = np.where(std > 1e-6, std, 1.0)
    return {"mean": tuple(values.mean(axis=0).tolist()), "std": tuple(std.tolist())}


def create_network(config: ConfigDict) -> SiT:
    """The network of a config's ``model`` section."""
    return SiT(
        num_tokens=config.num_tokens,
        channels=CHANNELS,
        cond_channels=0,
        num_classes=config.num_classes,
        width=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        learn_sigma=False,
        dtype=jnp.dtype(config.dtype),
    )


class SitLayoutSampler:
    """A ``LayoutSampler`` of as many tokens as the network was trained with.

    Args:
      network: the network.
      params: its parameters.
      config: of its run; ``statistics``, ``label_names``, ``untrained_labels``, ``transport`` and
        ``sample`` are used.
    """

    def __init__(
        self, network: SiT, params: Any, config: ConfigDict, *, description: str = "a SiT"
    ):
        self.label_names = tuple(config.label_names)
        self.num_tokens = network.num_tokens
        self.image_size = config.model.image_size
        self.description = description
        self._params, self._null = params, network.num_classes
        self._untrained = config.get("untrained_labels", ())
        settings = {name: config[name] for name in ("statistics", "transport", "sample")}
        settings = json.dumps(ConfigDict(settings).to_dict())
        self.fingerprint = f"{params_checksum(params):08x} {settings}"
        transport = Transport.of(config.transport)
        sampler = Sampler(config.sample.method, config.sample.steps)
        guidance = Guidance.of(config)
        statistics = tuple(sorted(config.statistics.to_dict().items()))  # can be hashed
        self._draw = partial(_draw_jit, network, transport, sampler, guidance, statistics)

    def sample(self, keys: PRNGKeyArray, labels: Labels, numbers: Labels | None = None) -> Geometry:
        """One layout a key, in canonical order or about it; see ``LayoutSampler``."""
        labels = check_labels(labels, self.label_names, self._untrained)
        labels = np.where(labels < 0, self._null, labels)
        return map_in_batches(partial(self._draw, self._params), keys, labels)

    def check(self, label: int, number: int) -> None:
        """Checks that the network has seen a class; see ``LayoutSampler``."""
        check_labels([label], self.label_names, self._untrained)


def _draw(network, transport, sampler, guidance, statistics, params, keys, labels):
    noise = samplers.image_noise(keys, (network.num_tokens, CHANNELS))
    predict = guidance.predictor(partial(network.apply, params), labels, network.num_classes)
    values = samplers.sample(predict, transport, sampler, noise)
    return to_geometry(values, dict(statistics))


_draw_jit = announced(
    jax.jit(_draw, static_argnums=range(5)), "the layout sampler", lambda *inputs: inputs[6]
)


def load_sit_sampler(
    root: str | Path, *, step: int | None = None, weights: str = "ema_params"
) -> SitLayoutSampler:
    """The sampler of a run of task ``layout_sit``.

    Args:
      root: the run's directory.
      step: which checkpoint; the newest that can be read if None.
      weights: ``"ema_params"`` or ``"params"``.

    Raises:
      CheckpointError: if something is missing or does not fit together; says what.
    """
    config, network, params, step = load_weights(
        root, "layout_sit", create_network, init_params, step=step, weights=weights
    )
    description = f"the SiT of {root}, step {step}"
    return SitLayoutSampler(network, params, config, description=description)
