"""The task of training stage 2 of generation: the texture of a layout, as tokens have it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from gpstoken_jax.generation.guidance import Guidance
from gpstoken_jax.generation.normalisation import Normalisation
from gpstoken_jax.generation.samplers import Sampler
from gpstoken_jax.generation.sampling import image_keys, sample_batch
from gpstoken_jax.generation.sit import create_sit, init_params
from gpstoken_jax.generation.transport import Transport
from gpstoken_jax.runtime.compiling import announced
from gpstoken_jax.tokenizer import Tokenizer
from gpstoken_jax.tokens import TokenDataset, TokensError, open_tokens, visualize
from gpstoken_jax.tokens.batches import TokenBatches, read_rows
from gpstoken_jax.training.class_conditional import (
    ClassConditionalTask,
    fill_in,
    untrained_labels,
    with_known_classes,
)
from gpstoken_jax.training.state import TrainState
from gpstoken_jax.training.step import Batch, one_copy

_PREVIEW = Sampler("ode_heun", 25)


class SiTTask(ClassConditionalTask):
    """Trains ``SiT`` to turn noise into tokens, given their class and their initial Gaussians.

    What the config leaves open (number of tokens, channels, classes, statistics) is filled in from
    the tokens, so that the run's directory says all that sampling needs.
    """

    after_training = (
        "generate: gpstoken generate --generator={workdir} --tokenizer=RUN --output=DIR "
        "--layouts=FILE"
    )
    factory = (create_sit, init_params)

    def __init__(self, config: ConfigDict):
        self._tokens = _training_tokens(config)
        super().__init__(config)
        self._train, self.held_out = _split(config, self._tokens)
        labels = self._tokens.column("label")[self._train].ravel()
        config.untrained_labels = untrained_labels(labels, config)
        if self.held_out:
            self.held_out = with_known_classes(self.held_out, config)
        self.model = create_sit(config.model)
        self.transport = Transport.of(config.transport)
        self._normalisation = Normalisation.of(config.statistics)
        self.eval_batch, self.eval_repeats = config.eval.batch_size, config.eval.num_times
        self._tokenizer: Tokenizer | None = None

        def sample(params, keys, labels, cond):
            guidance = Guidance.of(config)
            model, transport = self.model, self.transport
            return sample_batch(
                model, params, transport, _PREVIEW, guidance, keys, labels, cond=cond
            )[0]

        self._sample = announced(jax.jit(sample), "the preview", lambda params, keys, *_: keys)

    def open_batches(self) -> TokenBatches:
        config = self.config
        held_out = len(self.held_out["label"]) if self.held_out else 0
        print(
            f"{len(self._train)} images' tokens of {config.data.tokens}, {held_out} held out, "
            f"{config.model.num_classes} class(es)"
        )
        return TokenBatches(
            self._tokens,
            self._train,
            config.train.batch_size // jax.process_count(),
            config.seed,
            jax.process_index(),
            jax.process_count(),
            config.data.cache_mb,
        )

    def describe_data(self) -> str:
        return self._tokens.fingerprint()

    def init_params(self, key: PRNGKeyArray) -> Any:
        return init_params(self.model, key)

    def loss(
        self,
        params: Any,
        batch: Batch,
        labels: Int[Array, "b"],
        keys: Sequence[PRNGKeyArray],
        train: bool,
    ) -> Float[Array, "b"]:
        data, cond = self._examples(batch)
        noise_key, time_key = keys
        noise = jax.random.normal(noise_key, data.shape)
        low, high = self.transport.training_times
        times = jax.random.uniform(time_key, labels.shape, minval=low, maxval=high)
        predict = partial(self.model.apply, params)
        return self.transport.example_loss(predict, data, noise, times, labels, cond)

    def held_out_loss(
        self,
        params: Any,
        batch: Batch,
        labels: Int[Array, "b"],
        key: PRNGKeyArray,
        rows: Int[Array, "b"],
        repeat: int,
    ) -> Float[Array, "b"]:
        """At times spread evenly and with noise that are the same in every evaluation."""
        data, cond = self._examples(batch)
        noise = jax.random.normal(key, data.shape)
        low, high = self.transport.training_times
        times = low + (high - low) * (repeat + (rows * 0.6180339887) % 1) / self.eval_repeats
        predict = partial(self.model.apply, params)
        return self.transport.example_loss(predict, data, noise, times, labels, cond)

    def preview(self, state: TrainState) -> UInt8[np.ndarray, "h w 3"] | None:
        """Held-out examples above, samples on their layouts and of their classes below.

        Images if ``config.tokenizer`` names a run, else Gaussians.
        """
        if not self.held_out:
            return None
        count = self.config.log.images
        rows = {name: array[:count] for name, array in self.held_out.items()}
        cond = rows["initial_geometry"]
        keys = image_keys(self.config.seed, np.arange(len(cond)))
        x = np.asarray(self._sample(one_copy(state.ema_params), keys, rows["label"], cond))
        made = self._normalisation.denormalise(x, cond)
        real = np.concatenate([rows["geometry"], rows["features"]], axis=-1)
        return visualize.image_grid([self._pictures(real), self._pictures(made)])

    def _pictures(self, tokens: Float[np.ndarray, "b l 5+c"]) -> list[np.ndarray]:
        if not self.config.tokenizer:
            blank = np.ones((64, 64, 3), np.float32)
            return [visualize.draw_gaussians(blank, each[:, :5]) for each in tokens]
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.from_pretrained(self.config.tokenizer)
        return list(self._tokenizer.decode(tokens))

    def _examples(self, rows: Batch) -> tuple[Float[Array, "b l 5+c"], Float[Array, "b l 5"]]:
        """Targets and conditions of a batch."""
        geometry, cond, features = (
            rows[name] for name in ("geometry", "initial_geometry", "features")
        )
        return self._normalisation.normalise(geometry, cond, features), cond


def create_task(config: ConfigDict) -> SiTTask:
    """The task of a config."""
    return SiTTask(config)


def _training_tokens(config: ConfigDict) -> TokenDataset:
    """Opens ``data.tokens`` and fills in what the config leaves open.

    Raises:
      ValueError: if there are none, or the config says otherwise than the tokens.
    """
    if not config.data.tokens:
        raise ValueError(
            "no tokens given: set --config.data.tokens=DIR "
            "(made by `gpstoken encode --checkpoint=RUN --data.folder=IMAGES --output=DIR`)"
        )
    tokens = open_tokens(config.data.tokens)
    if not len(tokens):
        raise TokensError(f"{config.data.tokens} has tokens of no image")
    names = tuple(tokens.header["label_names"])
    found = {
        "num_tokens": len(tokens[0].tokens),
        "channels": tokens[0].tokens.shape[1],
        "num_classes": max(len(names), 1),
    }
    fill_in(config.model, found, f"the tokens of {config.data.tokens}")
    config.label_names = names
    if not config.statistics.mean:
        mean, std = tokens.normalisation
        config.statistics.update(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    return tokens


def _split(
    config: ConfigDict, tokens: TokenDataset
) -> tuple[Int[np.ndarray, "n k"], dict[str, np.ndarray] | None]:
    """Entries to train on, of which one in each row is drawn, and the rows of those held out.

    Raises:
      ValueError: if nothing is left to train on, ``val_tokens`` are of another kind, or there are
        no mirror images and the config requires them.
    """
    mirror = config.data.get("mirror", "if_there")
    if mirror == "required" and not tokens.header.get("mirrored"):
        raise TokensError(
            f"{config.data.tokens} has no mirror images, which this config draws from: encode with "
            "--mirror, or --config.data.mirror=if_there"
        )
    everything = _mirror_pairs(tokens)[:, : 1 if mirror == "never" else 2]
    if config.data.val_tokens:
        return everything, _held_out_rows(config, open_tokens(config.data.val_tokens))
    if not config.data.val_fraction:
        return everything, None
    every = max(round(1 / config.data.val_fraction), 2)
    # Crops of one image stay together.
    image = tokens.column("position")[everything[:, 0]] // tokens.copies
    held_out = image % every == every - 1
    if not held_out.any():
        return everything, None
    rows = read_rows(tokens, _some(everything[held_out, 0], config.eval.max_examples))
    return everything[~held_out], rows


def _mirror_pairs(tokens: TokenDataset) -> Int[np.ndarray, "n k"]:
    """The entries of each image, [N, 2] with its mirror image, else [N, 1]."""
    if not tokens.header.get("mirrored"):
        return np.arange(len(tokens))[:, None]
    order = np.argsort(tokens.column("position"), kind="stable")
    image = tokens.column("position")[order] // tokens.copies
    _, first, count = np.unique(image, return_index=True, return_counts=True)
    return np.stack([order[first], order[first + count - 1]], axis=1)


def _held_out_rows(config: ConfigDict, tokens: TokenDataset) -> dict[str, np.ndarray]:
    """Rows of a directory of its own; its classes are matched by name, others become none."""
    rows = read_rows(tokens, _some(_mirror_pairs(tokens)[:, 0], config.eval.max_examples))
    shape = (*rows["geometry"].shape[1:2], 5 + rows["features"].shape[-1])
    ours = config.model.num_tokens, config.model.channels
    if shape != ours:
        raise TokensError(
            f"{config.data.val_tokens} has {shape[0]} tokens of {shape[1]} values an image, "
            f"{config.data.tokens} {ours[0]} of {ours[1]}"
        )
    number = {name: i for i, name in enumerate(config.label_names)}
    names = tokens.header["label_names"]
    new = np.array([*(number.get(name, -1) for name in names), -1], np.int32)
    return {**rows, "label": new[rows["label"]]}


def _some(indices: Int[np.ndarray, " n"], most: int) -> Int[np.ndarray, " m"]:
    """At most so many, spread evenly; 0 is all."""
    return indices[:: -(-len(indices) // most)] if 0 < most < len(indices) else indices
