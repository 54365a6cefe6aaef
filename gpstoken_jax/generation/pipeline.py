"""A class becomes an image: layout, texture, decoder."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from gpstoken_jax.generation.generator import Generator
from gpstoken_jax.generation.guidance import Guidance
from gpstoken_jax.generation.layouts import LayoutSampler
from gpstoken_jax.generation.samplers import Sampler
from gpstoken_jax.generation.sampling import BatchSampler
from gpstoken_jax.runtime.run_directory import Tokenizer
from gpstoken_jax.tokens.coding import BatchDecoder

_NOT_THERE = -2


class Pipeline:
    """Makes images of classes.

    Image ``number`` of a class is the same whatever batch it is made in, beside whichever others.

    Args:
      generator: stage 2.
      tokenizer: of the tokens that the generator was trained on.
      layouts: stage 1.
      sampler: how stage 2 is sampled.
      guidance: its guidance.
      seed: decides every image.
      batch_size: images at a time; fewer are filled up, so that everything is compiled once.

    Raises:
      CheckpointError: if generator and tokenizer do not fit together.
    """

    def __init__(
        self,
        generator: Generator,
        tokenizer: Tokenizer,
        layouts: LayoutSampler,
        sampler: Sampler,
        guidance: Guidance,
        *,
        seed: int,
        batch_size: int,
    ):
        generator.check_tokenizer(tokenizer)
        self._generator, self._layouts = generator, layouts
        self._batch_size, self._seed = batch_size, seed
        self._layout_labels = match_labels(generator.label_names, layouts.label_names)
        self._sample = BatchSampler(
            generator.model, generator.params, generator.transport, sampler, guidance
        )
        self._decode = BatchDecoder(tokenizer)

    def check_classes(self, labels: Sequence[int]) -> None:
        """Sees to it that there are layouts of these classes.

        Raises:
          ValueError: naming the first of which there are none.
        """
        for label in labels:
            if self._layout_labels[label] == _NOT_THERE:
                name = self._generator.label_names[label]
                there = ", ".join(self._layouts.label_names[:8])
                raise ValueError(f"there are no layouts of class {name!r}, only of {there}")

    def __call__(
        self, labels: Int[np.ndarray, " b"], numbers: Int[np.ndarray, " b"]
    ) -> dict[str, Any]:
        """Makes at most ``batch_size`` images.

        Args:
          labels: class of each.
          numbers: which of that class's images each is.

        Returns:
          geometry [B, L, 5], initial_geometry [B, L, 5], features [B, L, C], image [B, H, W, 3]
          in [-1, 1], and evaluations [B] of the network.

        Raises:
          ValueError: if there is no layout for a class.
          FloatingPointError: if a sample is not finite.
        """
        count = len(labels)
        fill = (0, self._batch_size - count)
        labels, numbers = (np.pad(array, fill, mode="edge") for array in (labels, numbers))
        layout_keys, token_keys = class_keys(self._seed, labels, numbers)
        layout = self._layouts.sample(layout_keys, self._layout_labels[labels])
        x, evaluations = self._sample(token_keys, labels, layout)
        tokens = self._generator.normalisation.denormalise(x, layout)
        made = {
            "geometry": tokens[..., :5],
            "initial_geometry": layout,
            "features": tokens[..., 5:],
            "image": self._decode(tokens),
            "evaluations": evaluations,
        }
        return {name: array[:count] for name, array in made.items()}


def class_keys(
    seed: int, labels: Sequence[int], numbers: Sequence[int]
) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Keys [B] of the layout and of the texture of an image, by its class and number."""
    key = jax.random.key(seed)

    def of_image(label, number):
        image = jax.random.fold_in(jax.random.fold_in(key, label), number)
        return jax.random.fold_in(image, 0), jax.random.fold_in(image, 1)

    return jax.vmap(of_image)(jnp.asarray(labels), jnp.asarray(numbers))


def match_labels(names: tuple[str, ...], layout_names: tuple[str, ...]) -> Int[np.ndarray, " k"]:
    """For each class the layouts' number of it, ``_NOT_THERE`` if they have none of that name.

    Layouts without classes serve every one (-1).
    """
    if not layout_names:
        return np.full(len(names), -1, np.int32)
    number = {name: i for i, name in enumerate(layout_names)}
    return np.array([number.get(name, _NOT_THERE) for name in names], np.int32)
