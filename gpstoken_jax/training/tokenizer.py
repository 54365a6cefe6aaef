"""The task of training a tokenizer: images in, the same images out."""

from collections.abc import Callable, Mapping
from functools import cache, cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from gpstoken_jax import data
from gpstoken_jax.data.sources import likeness
from gpstoken_jax.losses.adversarial import PatchDiscriminator, init_discriminator
from gpstoken_jax.losses.quantisation import round_straight_through
from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.partition.images import partition_images
from gpstoken_jax.partition.regions import max_regions
from gpstoken_jax.runtime.text import say
from gpstoken_jax.training import state as states
from gpstoken_jax.training.gradients import (
    WITHOUT_GAN,
    Gradients,
    TokenizerLoss,
    Update,
    accumulate,
)
from gpstoken_jax.training.non_finite import update_if_finite
from gpstoken_jax.training.optimizer import create_optimizer, learning_rate
from gpstoken_jax.training.preview import Preview
from gpstoken_jax.training.schedule import autoencoder_updates, gan_start, update_after
from gpstoken_jax.training.start import stop_gradients
from gpstoken_jax.training.state import DiscriminatorState, TokenizerState
from gpstoken_jax.training.step import AXIS, Batch, Metrics, Step, one_copy, scaled, step_key
from gpstoken_jax.training.task import Task
from gpstoken_jax.training.validation import Validation
from gpstoken_jax.weights.networks import load_loss_networks

Params = Any


class TokenizerTask(Task):
    """Trains ``GPSToken`` to reconstruct images, from some step on against a discriminator."""

    on_screen = ("loss", "mse", "lpips", "inception", "gan_weight", "discriminator", "grad_norm")
    after_training = "evaluate: python eval.py --checkpoint={workdir}"
    factory = (GPSToken, init_params)

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        self.model = GPSToken(config.model)
        self.discriminator = create_discriminator(config) if config.gan.weight else None
        if self.discriminator and self.is_frozen and last_layer(self.is_frozen):
            raise ValueError(
                f"config.freeze={self.freeze!r} has decoder/conv_out/kernel, whose gradient sets "
                "the weight of the GAN: leave it out, or set config.gan.weight=0"
            )
        self._loss = TokenizerLoss(config, self.discriminator, AXIS, last_layer)
        start = gan_start(config)
        discriminator = learning_rate(config.gan.optimizer, config.train.steps - start)
        self.schedule |= {
            "discriminator_learning_rate": discriminator,
            "gan_start": np.int32(start),
        }
        self._data = data.DataSet(config.data)
        self._preview = Preview(self.model, config, self._data)
        self._validation = Validation(self.model, config, self._data)

    def num_updates(self) -> int:
        return int(autoencoder_updates(self.config.train.steps, self.config))

    def open_batches(self) -> data.TrainBatches:
        return open_images(self._data, self.config)

    def describe_data(self) -> dict[str, Any]:
        return likeness(self._data.open(self.config.data.train_split))

    def init_params(self, key: PRNGKeyArray) -> Params:
        return init_params(self.model, key)

    def create_state(self, key: PRNGKeyArray) -> TokenizerState:
        state = super().create_state(key)
        return TokenizerState(**vars(state), discriminator=self._create_discriminator(key))

    def start_from(self, params: Params, ema_params: Params, key: PRNGKeyArray) -> TokenizerState:
        """The state of a training that starts from given weights of the autoencoder."""
        opt_state = self.optimizer(self.schedule["learning_rate"]).init(params)
        step, discriminator = jnp.zeros((), jnp.int32), self._create_discriminator(key)
        return TokenizerState(step, params, ema_params, opt_state, discriminator)

    def _create_discriminator(self, key: PRNGKeyArray) -> DiscriminatorState | None:
        if not self.discriminator:
            return None
        key = jax.random.fold_in(key, 1)  # the autoencoder has the key itself
        variables = jax.jit(partial(init_discriminator, self.discriminator))(key)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        optimizer = create_optimizer(
            self.config.gan.optimizer, self.schedule["discriminator_learning_rate"]
        )
        return DiscriminatorState(params, batch_stats, optimizer.init(params))

    def to_trees(self, state: TokenizerState) -> dict[str, Any]:
        trees = super().to_trees(state)
        if state.discriminator:
            trees["discriminator"] = vars(state.discriminator)
        return trees

    def from_trees(self, trees: Mapping[str, Any]) -> TokenizerState:
        discriminator = None
        if "discriminator" in trees:
            discriminator = DiscriminatorState(**trees["discriminator"])
        return TokenizerState(**vars(super().from_trees(trees)), discriminator=discriminator)

    def load_frozen(self) -> dict[str, Any]:
        return super().load_frozen() | load_loss_networks(self.config.loss)

    def step_at(self, step: int) -> Step:
        num_tokens = draw_num_tokens(self.config, step)
        return self._steps(update_after(step - 1, self.config), num_tokens)

    @cached_property
    def _steps(self) -> Callable[[Update, int], Step]:
        def step(update: Update, num_tokens: int) -> Step:
            return partial(self.train_step, update=update, num_tokens=num_tokens)

        return cache(step)  # the same function for the same choice, as it is compiled once

    def train_step(
        self,
        state: TokenizerState,
        batch: Batch,
        frozen: Mapping[str, Any],
        *,
        update: Update = WITHOUT_GAN,
        num_tokens: int | None = None,
    ) -> tuple[TokenizerState, Metrics]:
        key = step_key(self.config.seed, state.step)
        discriminator = state.discriminator if update.uses_discriminator else None
        with jax.named_scope("gradients"):  # so the profile calls it
            grads = accumulate(
                partial(self._gradients, update, num_tokens, state.params, discriminator, frozen),
                {"image": batch["image"]},
                key,
                discriminator.batch_stats if discriminator else {},
                self.config.train.accumulate,
            )
            grads = jax.lax.pmean(grads, AXIS)
        metrics, schedule = dict(grads.metrics), frozen["schedule"]
        call = autoencoder_updates(state.step, self.config, schedule["gan_start"])
        if update.autoencoder:
            metrics["grad_norm"] = optax.tree.norm(grads.autoencoder)
            metrics["learning_rate"] = schedule["learning_rate"](call)
        if update.discriminator:
            metrics["grad_norm_discriminator"] = optax.tree.norm(grads.discriminator)
        with jax.named_scope("update"):
            new_state = partial(self._update, update, schedule, call)
            return update_if_finite(new_state, state, grads, metrics)

    def _update(
        self,
        update: Update,
        schedule: Mapping[str, Any],
        call: Int[Array, ""],
        state: TokenizerState,
        grads: Gradients,
    ) -> TokenizerState:
        if update.autoencoder:
            optimizer = self.optimizer(schedule["learning_rate"])
            state = states.apply_gradients(
                state, grads.autoencoder, optimizer, self.config.ema, call, self.is_frozen
            )
        if update.uses_discriminator:
            old = state.discriminator.replace(batch_stats=grads.batch_stats)
            if update.discriminator:
                optimizer = create_optimizer(
                    self.config.gan.optimizer, schedule["discriminator_learning_rate"]
                )
                changes, opt_state = optimizer.update(
                    grads.discriminator, old.opt_state, old.params
                )
                params = optax.apply_updates(old.params, changes)
                old = old.replace(params=params, opt_state=opt_state)
            state = state.replace(discriminator=old)
        return state

    def _gradients(
        self, update, num_tokens, params, discriminator, frozen, batch, key, batch_stats
    ) -> Gradients:
        images = scaled(batch["image"])
        partition = partition_into(num_tokens or self.config.partition.num_tokens, self.config)
        geometry, boxes = partition_images(images, **partition)
        if discriminator:
            discriminator = discriminator.replace(batch_stats=batch_stats)

        def autoencode(params):
            params = stop_gradients(params, self.is_frozen)
            tokens = self.model.apply(params, images, geometry, boxes, method="encode")
            stored = round_straight_through(tokens, self.config.loss.get("token_bits", 0))
            return self.model.apply(params, stored, method="decode"), tokens

        inputs = params, discriminator, images, frozen, key
        return self._loss.gradients(update, autoencode, *inputs)

    def held_out_metrics(self) -> tuple[str, ...]:
        """``val_psnr``, ``val_ssim`` and, if a loss, ``val_lpips``."""
        if not has_held_out(self._data, self.config.data):
            return ()
        names = ("val_psnr", "val_ssim", "val_lpips")
        return names if self.config.loss.lpips_weight else names[:2]

    def evaluate(self, state: TokenizerState, frozen: Mapping[str, Any]) -> dict[str, float]:
        """Of the averaged weights: ``val_psnr``, ``val_ssim`` and, if a loss, ``val_lpips``."""
        lpips_weights = one_copy(frozen["lpips"]) if "lpips" in frozen else None
        return self._validation(one_copy(state.ema_params), lpips_weights)

    def preview(self, state: TokenizerState) -> UInt8[np.ndarray, "h w 3"] | None:
        return self._preview(state) if has_held_out(self._data, self.config.data) else None


def draw_num_tokens(config: ConfigDict, step: int) -> int:
    """The number of tokens of a step, from 1, the same on every process and in a resumed run."""
    choices = config.train.get("num_tokens", ()) or (config.partition.num_tokens,)
    return int(np.random.default_rng((config.seed, step)).choice(choices))


def partition_into(num_tokens: int, config: ConfigDict) -> dict[str, Any]:
    """The arguments of a partition: regions are halved until there is room for so many tokens."""
    size, least = config.model.image_size, config.partition.get("min_size", 8)
    while max_regions(size, size, least) < num_tokens:
        least //= 2
    return dict(config.partition) | {"num_tokens": num_tokens, "min_size": least}


def last_layer(params: Params) -> Float[Array, "3 3 c 3"]:
    """The kernel of the decoder's last convolution, or its gradient."""
    return params["params"]["decoder"]["conv_out"]["kernel"]


def create_discriminator(config: ConfigDict) -> PatchDiscriminator:
    """The discriminator of a config, with the batch statistics of all devices together."""
    return PatchDiscriminator(
        **config.gan.discriminator, axis_name=AXIS, dtype=jnp.dtype(config.model.dtype)
    )


def create_task(config: ConfigDict) -> TokenizerTask:
    """The task of a config."""
    return TokenizerTask(config)


def has_held_out(images: data.DataSet, config: ConfigDict) -> bool:
    """Tells whether the data has the split for evaluation; a folder may do without.

    Raises:
      ValueError: if it should have one; says what to do.
    """
    try:
        images.open(config.eval_split)
    except ValueError as error:
        if config.folder and not config.val_fraction:
            return False
        raise ValueError(
            f"{error}; to train without evaluation, set --config.eval.every_steps=0 and "
            "--config.log.images_every_steps=0"
        ) from error
    return True


def open_images(images: data.DataSet, config: ConfigDict) -> data.TrainBatches:
    """This process's share of the training images.

    Raises:
      ValueError: if there are no images.
    """
    source = images.open(config.data.train_split)
    left_out = getattr(source, "left_out", ())
    some = f" ({len(left_out)} others left out, such as {left_out[0]})" if left_out else ""
    say(source.description + some)
    return data.train_batches(
        source,
        config.data,
        config.model.image_size,
        config.train.batch_size // jax.process_count(),
        config.seed,
        jax.process_index(),
        jax.process_count(),
    )
