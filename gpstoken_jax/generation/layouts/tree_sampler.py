"""Layouts drawn from the network over the tree of squares: every one tiles the image exactly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax.generation.layouts.batching import map_in_batches
from gpstoken_jax.generation.layouts.sampler import Geometry, Labels, check_labels
from gpstoken_jax.generation.layouts.split_tree import split_tree
from gpstoken_jax.generation.layouts.tree_network import TreeNetwork, draw, init_params
from gpstoken_jax.runtime.checkpoint import params_checksum
from gpstoken_jax.runtime.compiling import announced
from gpstoken_jax.runtime.run_directory import load_weights

_draw = announced(
    jax.jit(draw, static_argnums=0), "the layout sampler", lambda network, params, keys, *_: keys
)


class TreeSampler:
    """A ``LayoutSampler`` of any number of tokens that the image allows.

    Args:
      network: the network.
      params: its parameters.
      label_names: names of its classes.
      num_tokens: L.
      temperature: below 1, likely layouts become likelier.
      untrained: labels that the network never saw.

    Raises:
      ValueError: if the image has no room for so many tokens.
    """

    def __init__(
        self,
        network: TreeNetwork,
        params: Any,
        label_names: Sequence[str],
        num_tokens: int,
        *,
        temperature: float = 1.0,
        untrained: Sequence[int] = (),
        description: str = "the network over the tree",
    ):
        self.label_names = tuple(label_names)
        self.num_tokens = num_tokens
        self.image_size = network.tree.image_size
        self.description = description
        self._network, self._params, self._temperature = network, params, temperature
        self._untrained = untrained
        self.fingerprint = f"{params_checksum(params):08x} {temperature}"
        if not 1 <= num_tokens <= network.tree.max_regions:
            raise ValueError(
                f"num_tokens must be from 1 to {network.tree.max_regions} for an image of "
                f"{self.image_size} pixels a side, got {num_tokens}"
            )

    def sample(self, keys: PRNGKeyArray, labels: Labels, numbers: Labels | None = None) -> Geometry:
        """One layout a key, in canonical order; see ``LayoutSampler``."""
        labels = check_labels(labels, self.label_names, self._untrained)
        labels = np.where(labels < 0, self._network.num_classes, labels)

        def draw_some(keys, labels):
            counts = np.full(len(labels), self.num_tokens)
            return _draw(self._network, self._params, keys, labels, counts, self._temperature)

        return self._network.tree.to_geometry(map_in_batches(draw_some, keys, labels))

    def check(self, label: int, number: int) -> None:
        """Checks that the network has seen a class; see ``LayoutSampler``."""
        check_labels([label], self.label_names, self._untrained)


def create_network(config: ConfigDict) -> TreeNetwork:
    """The network of a config's ``model`` section."""
    return TreeNetwork(
        tree=split_tree(config.image_size, config.min_size),
        num_classes=config.num_classes,
        width=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        dropout=config.dropout,
    )


def load_tree_sampler(
    root: str | Path,
    *,
    num_tokens: int | None = None,
    step: int | None = None,
    weights: str = "ema_params",
) -> TreeSampler:
    """The sampler of a run of task ``layout_tree``.

    Args:
      root: the run's directory.
      num_tokens: L; that of the training layouts by default.
      step: which checkpoint; the newest that can be read if None.
      weights: ``"ema_params"`` or ``"params"``.

    Raises:
      CheckpointError: if something is missing or does not fit together; says what.
    """
    config, network, params, step = load_weights(
        root, "layout_tree", create_network, init_params, step=step, weights=weights
    )
    return TreeSampler(
        network,
        params,
        config.label_names,
        num_tokens or config.model.num_tokens,
        untrained=config.get("untrained_labels", ()),
        description=f"the network over the tree of {root}, step {step}",
    )
