"""Samples of a trained SiT, on all devices, each image from a key of its own."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gpstoken_jax.generation.adaptive import sample_dopri5
from gpstoken_jax.generation.guidance import Guidance
from gpstoken_jax.generation.samplers import Sampler, evaluations, image_noise, sample
from gpstoken_jax.generation.sit import SiT
from gpstoken_jax.generation.transport import Transport
from gpstoken_jax.runtime.devices import pad_shard_unpad

Params = Any


def image_keys(seed: int, numbers: Int[np.ndarray, " b"] | list[int]) -> PRNGKeyArray:
    """Keys of images by number: image i of a seed is the same wherever and beside whatever."""
    key = jax.random.key(seed)
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.asarray(numbers))


def sample_batch(
    model: SiT,
    params: Params,
    transport: Transport,
    sampler: Sampler,
    guidance: Guidance,
    keys: PRNGKeyArray,
    labels: Int[Array, " b"],
    cond: Float[Array, "b l e"] | None = None,
) -> tuple[Float[Array, "b l c"], Int[Array, " b"]]:
    """Samples of one device's images; can be traced.

    Args:
      model: the network; ``params`` are its parameters, ``transport`` what it predicts.
      sampler: the method.
      guidance: classifier-free guidance.
      keys: one an image.
      labels: classes; negative for none.
      cond: given with every token.

    Returns:
      The samples, and how often the network was evaluated for each.
    """
    labels = jnp.where(labels < 0, model.num_classes, labels)
    shape = (model.num_tokens if cond is None else cond.shape[1], model.channels)

    def predictor(labels, cond, **options):
        def network(*arguments):
            return model.apply(params, *arguments)

        return guidance.predictor(network, labels, model.num_classes, cond, **options)

    if sampler.method == "ode_dopri5":

        def one(key, label, cond):
            cond = None if cond is None else cond[None]
            predict = predictor(label[None], cond, times_differ=True)
            start = image_noise(key[None], shape)(0)
            x, count = sample_dopri5(predict, transport, sampler, start)
            return x[0], count * (2 if guidance.active else 1)

        return jax.vmap(one)(keys, labels, cond)
    x = sample(predictor(labels, cond), transport, sampler, image_noise(keys, shape))
    return x, jnp.full(len(labels), evaluations(sampler, transport, guidance))


class BatchSampler:
    """Samples of a network with its parameters, a batch at a time, on all devices.

    Batches of one size are compiled once. The size, the devices and the order change an image by
    rounding at most.
    """

    def __init__(
        self, model: SiT, params: Params, transport: Transport, sampler: Sampler, guidance: Guidance
    ):
        def run(params, batch):
            keys = jax.random.wrap_key_data(batch["keys"])
            return sample_batch(
                model,
                params,
                transport,
                sampler,
                guidance,
                keys,
                batch["labels"],
                batch.get("cond"),
            )

        self._run = partial(pad_shard_unpad(run, "the sampler"), params)

    def __call__(
        self,
        keys: PRNGKeyArray,
        labels: Int[np.ndarray, " b"],
        cond: Float[np.ndarray, "b l e"] | None = None,
    ) -> tuple[Float[np.ndarray, "b l c"], Int[np.ndarray, " b"]]:
        """Samples, and the evaluations of the network that each took.

        Raises:
          FloatingPointError: if a sample is not finite.
        """
        batch = {"keys": np.asarray(jax.random.key_data(keys)), "labels": np.asarray(labels)}
        if cond is not None:
            batch["cond"] = np.asarray(cond, np.float32)
        x, counts = self._run(batch)
        if not np.isfinite(x).all():
            raise FloatingPointError("a sample is not finite: try more steps or less guidance")
        return x, counts
