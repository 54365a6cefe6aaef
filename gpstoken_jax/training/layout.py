"""The tasks of training stage 1: layouts of a class, as files of layouts have them."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from gpstoken_jax.generation import sit
from gpstoken_jax.generation.layouts import sit_sampler
from gpstoken_jax.generation.layouts.collect import select_labels
from gpstoken_jax.generation.layouts.file import Layouts, read_layouts
from gpstoken_jax.generation.layouts.picture import layout_grid
from gpstoken_jax.generation.layouts.sampler import LayoutSampler
from gpstoken_jax.generation.layouts.sit_sampler import SitLayoutSampler
from gpstoken_jax.generation.layouts.split_tree import MIRRORED, split_tree
from gpstoken_jax.generation.layouts.tree_network import init_params, log_likelihood
from gpstoken_jax.generation.layouts.tree_sampler import TreeSampler, create_network
from gpstoken_jax.generation.transport import Transport
from gpstoken_jax.runtime.checkpoint import checksum
from gpstoken_jax.training.class_conditional import (
    ClassConditionalTask,
    fill_in,
    untrained_labels,
    with_known_classes,
)
from gpstoken_jax.training.layout_batches import LayoutBatches
from gpstoken_jax.training.state import TrainState
from gpstoken_jax.training.step import Batch, one_copy

_CLASSES_SHOWN = 8


class LayoutTask(ClassConditionalTask):
    """Base of both networks of stage 1.

    Reads the files of layouts, and fills what they say into the config: the image's side, the
    number of tokens, the classes.
    """

    def __init__(self, config: ConfigDict):
        self._layouts = _training_layouts(config)
        self._tree = split_tree(config.model.image_size, config.model.min_size)
        super().__init__(config)

    # ---- What a network of its own has to say ----------------------------------------------------

    def rows(self, patterns: Int[np.ndarray, "n q"]) -> dict[str, np.ndarray]:
        """Targets of the network, made of layouts as patterns of their tree; no labels."""
        raise NotImplementedError

    def sampler(self, params: Any) -> LayoutSampler:
        """Draws from the network."""
        raise NotImplementedError

    # ---- Task ------------------------------------------------------------------------------------

    def open_batches(self) -> LayoutBatches:
        config = self.config
        print(f"{len(self._layouts)} layouts of {config.model.num_tokens} tokens to learn from")
        patterns = self._tree.from_geometry(self._layouts.geometry)
        label = {"label": self._layouts.label}
        mirrored = MIRRORED[patterns][:, self._tree.mirror]
        return LayoutBatches(
            self.rows(patterns) | label,
            self.rows(mirrored) | label if config.data.flip else None,
            config.train.batch_size // jax.process_count(),
            config.seed,
            jax.process_index(),
            jax.process_count(),
        )

    def describe_data(self) -> list[int]:
        return [checksum({"geometry": self._layouts.geometry, "label": self._layouts.label})]

    @cached_property
    def held_out(self) -> dict[str, np.ndarray] | None:
        layouts = _held_out_layouts(self.config)
        if layouts is None:
            return None
        rows = self.rows(self._tree.from_geometry(layouts.geometry)) | {"label": layouts.label}
        return with_known_classes(rows, self.config)

    def preview(self, state: TrainState) -> UInt8[np.ndarray, "h w 3"]:
        """Drawn layouts, a column a class; the same keys in every preview."""
        sampler = self.sampler(one_copy(state.ema_params))
        untrained = self.config.untrained_labels
        labels = [i for i in range(len(sampler.label_names)) if i not in untrained]
        labels = labels[:_CLASSES_SHOWN] or [-1]
        titles = [sampler.label_names[label] for label in labels if label >= 0]
        keys = jax.random.split(jax.random.key(0), self.config.log.images * len(labels))
        drawn = sampler.sample(keys, np.tile(np.array(labels), self.config.log.images))
        return layout_grid(drawn.reshape(-1, len(labels), *drawn.shape[1:]), titles)


class LayoutTreeTask(LayoutTask):
    """Trains the network over the tree of squares; the loss is nats a layout."""

    after_training = "compare: python scripts/compare_layouts.py --tree={workdir} ..."
    factory = (create_network, init_params)

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        self.network = create_network(config.model)

    def rows(self, patterns: Int[np.ndarray, "n q"]) -> dict[str, np.ndarray]:
        return {"patterns": patterns}

    def init_params(self, key: PRNGKeyArray) -> Any:
        return init_params(self.network, key)

    def loss(
        self,
        params: Any,
        batch: Batch,
        labels: Int[Array, "b"],
        keys: Sequence[PRNGKeyArray],
        train: bool,
    ) -> Float[Array, "b"]:
        patterns = batch["patterns"].astype(jnp.int32)
        counts = jnp.full(len(patterns), self.config.model.num_tokens)
        options = {"train": train, "rngs": {"dropout": keys[0]}}
        return -log_likelihood(self.network, params, patterns, labels, counts, **options)

    def sampler(self, params: Any) -> TreeSampler:
        model = self.config.model
        names, untrained = self.config.label_names, self.config.untrained_labels
        return TreeSampler(self.network, params, names, model.num_tokens, untrained=untrained)


class LayoutSitTask(LayoutTask):
    """Trains a SiT over the Gaussians in canonical order; the loss is that of flow matching."""

    factory = (sit_sampler.create_network, sit.init_params)

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        self.network = sit_sampler.create_network(config.model)
        self._transport = Transport.of(config.transport)
        config.statistics.update(sit_sampler.measure(self._layouts.geometry))

    def rows(self, patterns: Int[np.ndarray, "n q"]) -> dict[str, np.ndarray]:
        geometry = self._tree.to_geometry(patterns)
        return {"values": sit_sampler.to_values(geometry, self.config.statistics)}

    def init_params(self, key: PRNGKeyArray) -> Any:
        return sit.init_params(self.network, key)

    def loss(
        self,
        params: Any,
        batch: Batch,
        labels: Int[Array, "b"],
        keys: Sequence[PRNGKeyArray],
        train: bool,
    ) -> Float[Array, "b"]:
        values = batch["values"]
        time_key, noise_key = jax.random.split(keys[0])
        low, high = self._transport.training_times
        times = jax.random.uniform(time_key, (len(values),), minval=low, maxval=high)
        noise = jax.random.normal(noise_key, values.shape)
        predict = partial(self.network.apply, params)
        return self._transport.example_loss(predict, values, noise, times, labels)

    def sampler(self, params: Any) -> SitLayoutSampler:
        return SitLayoutSampler(self.network, params, self.config)


def create_task(config: ConfigDict) -> LayoutTask:
    """The task of a config."""
    return {"layout_tree": LayoutTreeTask, "layout_sit": LayoutSitTask}[config.task](config)


def _training_layouts(config: ConfigDict) -> Layouts:
    """Reads ``data.layouts`` and fills in what the config leaves open.

    Raises:
      ValueError: if there is no file, or the config says otherwise than the file.
    """
    if not config.data.layouts:
        raise ValueError(
            "no layouts given: set --config.data.layouts=FILE "
            "(made by `gpstoken prepare_layouts --tokens=DIR --output=FILE`)"
        )
    layouts = read_layouts(config.data.layouts)
    found = {
        "image_size": layouts.image_size,
        "min_size": layouts.min_size,
        "num_tokens": layouts.num_tokens,
        "num_classes": len(layouts.label_names),
    }
    fill_in(config.model, found, f"the layouts of {config.data.layouts}")
    config.label_names = layouts.label_names
    config.untrained_labels = untrained_labels(layouts.label, config)
    return layouts


def _held_out_layouts(config: ConfigDict) -> Layouts | None:
    """Reads ``data.val_layouts``; its classes are matched by name.

    Raises:
      ValueError: if they are of another kind than those to learn from.
    """
    if not config.data.val_layouts:
        return None
    layouts = read_layouts(config.data.val_layouts)
    ours, model = (layouts.image_size, layouts.num_tokens), config.model
    if ours != (model.image_size, model.num_tokens):
        raise ValueError(
            f"{config.data.val_layouts} has {ours[1]} tokens of images of {ours[0]} pixels, "
            f"{config.data.layouts} {model.num_tokens} of {model.image_size}"
        )
    return select_labels(layouts, tuple(config.label_names))
