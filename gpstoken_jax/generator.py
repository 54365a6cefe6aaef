"""The generator as an object: classes in, Gaussian tokens of new images out."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax.generation.guidance import Guidance
from gpstoken_jax.generation.layouts import LayoutSampler, open_layouts
from gpstoken_jax.generation.normalisation import Normalisation
from gpstoken_jax.generation.samplers import Sampler
from gpstoken_jax.generation.sampling import BatchSampler
from gpstoken_jax.generation.sit import SiT, create_sit, init_params
from gpstoken_jax.generation.transport import Transport
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.tokenizer import Tokenizer, Tokens
from gpstoken_jax.weights import pretrained
from gpstoken_jax.weights.published import sit_table

NO_CLASS = -1
_NO_LAYOUTS = -2


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """Stage 2 of generation with its weights: the texture of a layout of Gaussians.

    Example:
      >>> generator = Generator.from_pretrained("runs/sit", layouts="runs/layout")  # doctest: +SKIP
      >>> tokens = generator.sample(["cat", "dog"], seed=1)                         # doctest: +SKIP
      >>> pixels = tokenizer.decode(tokens, uint8=True)                             # doctest: +SKIP

    Attributes:
      model: the Flax module.
      params: what it takes, ``{"params": ...}``.
      config: the whole config of the run that trained it.
      step: the training step of the weights.
      layouts: stage 1, for ``sample``; None if layouts are given with every call.
    """

    model: SiT
    params: Any
    config: ConfigDict
    step: int = 0
    layouts: LayoutSampler | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        layouts: str | Path | LayoutSampler | None = None,
        step: int | None = None,
        weights: str = "ema_params",
        config: ConfigDict | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
    ) -> Self:
        """Loads a generator.

        Args:
          source: as of ``Tokenizer.from_pretrained``.
          layouts: stage 1: a file of layouts, a work directory of a layout network, or a sampler.
          step: which checkpoint of a work directory; the newest that can be read if None.
          weights: ``"ema_params"``, the averaged ones, or ``"params"``.
          config: of the model, for a file that comes without one; None takes what fits.
          subfolder: the variant, in a folder or repository of several.
          revision: of a hub repository.

        Raises:
          CheckpointError: if something is missing, damaged or does not fit; says what and where.
          WeightsError: if a file holds other tensors than the model has; names them.
          LayoutsError: if the layouts cannot be read or have another number of tokens.
        """
        where = {"config": config, "subfolder": subfolder, "revision": revision}
        made = cls(*pretrained.load(source, "sit", create_sit, init_params, step, weights, **where))
        if isinstance(layouts, str | Path):
            in_turn = takes_layouts_in_turn(made.config)
            layouts = open_layouts(layouts, num_tokens=made.model.num_tokens, in_turn=in_turn)
        return dataclasses.replace(made, layouts=layouts)

    @functools.cached_property
    def transport(self) -> Transport:
        """The path from noise to data, and what the network predicts on it."""
        return Transport.of(self.config.transport)

    def __repr__(self) -> str:
        """One line, instead of all values of all weights."""
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        classes = f"{len(self.trained_labels) or 'no'} classes"
        return f"<Generator: {classes}, {parameters:,} parameters, step {self.step}>"

    @functools.cached_property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of the tokens that it makes."""
        return Normalisation.of(self.config.statistics)

    @property
    def trained_labels(self) -> tuple[int, ...]:
        """Classes that there was an image of in the training, of runs that say so; else all."""
        if not self.config.label_names and self.model.num_classes == 1:
            return ()
        untrained = self.config.get("untrained_labels", ())
        return tuple(i for i in range(self.model.num_classes) if i not in untrained)

    @property
    def has_classes(self) -> bool:
        """True if it was trained on images with classes."""
        return bool(self.trained_labels)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes; their numbers where they have no names, nothing without classes."""
        if not self.has_classes:
            return ()
        return tuple(self.config.label_names) or tuple(map(str, range(self.model.num_classes)))

    def label_name(self, label: int) -> str:
        """Names a label for people and for files."""
        return "unlabelled" if label == NO_CLASS else self.label_names[label]

    def labels(self, classes: str | int | Sequence[str | int]) -> list[int]:
        """Converts classes to labels.

        Args:
          classes: names or numbers; ``"all"`` is every class that there was an image of in the
            training, and the only choice for a generator that was trained without classes.

        Raises:
          ValueError: for one that is none, or that the training had no image of.
        """
        classes = [classes] if isinstance(classes, str | int | np.integer) else classes
        if not isinstance(classes, Sequence | np.ndarray) or not len(classes):
            raise ValueError(f"classes are names or numbers, one at least, not {classes!r}")
        classes = list(classes)
        if classes == ["all"]:
            return list(self.trained_labels) or [NO_CLASS]
        if not self.has_classes:
            raise ValueError(
                f"this generator was trained on images without classes: it cannot make "
                f"{str(classes[0])!r}, only all"
            )
        return [self._label(str(name)) for name in classes]

    def _label(self, name: str) -> int:
        names, trained = self.label_names, self.trained_labels
        label = (
            names.index(name) if name in names else int(name) if name.isdecimal() else len(names)
        )
        if label in trained:
            return label
        shown = ", ".join(names[i] for i in trained[:8]) + (", ..." if len(trained) > 8 else "")
        if label < len(names):
            raise ValueError(
                f"there was no image of class {names[label]!r} in the training of this generator: "
                f"it can make {shown}"
            )
        raise ValueError(f"{name!r} is no class of this generator: it has {shown}")

    def sampler(
        self, method: str | None = None, steps: int | None = None, last_step: str = "mean"
    ) -> Sampler:
        """Makes a sampler; what is None is as the config says."""
        defaults = self.config.sample
        method = defaults.method if method is None else method
        return Sampler(method, defaults.steps if steps is None else steps, last_step)

    def guidance(
        self, scale: float | None = None, interval: tuple[float, float] | None = None
    ) -> Guidance:
        """Makes the guidance; what is None is as the config says.

        Raises:
          ValueError: if guidance is asked for that was trained without classes, or with nothing
            else: it goes from images of no class to those of one.
        """
        defaults = self.config.sample
        interval = defaults.guidance_interval if interval is None else interval
        if np.shape(interval) != (2,):
            raise ValueError(f"the guidance interval is two times, (low, high), not {interval!r}")
        low, high = interval
        lacks = None
        if not self.has_classes:
            lacks = "without classes", "there is nothing to guide it to"
        elif NO_CLASS in self.config.get("untrained_labels", ()):
            lacks = "with classes only (train.label_dropout=0)", "there is nothing to guide it from"
        if lacks:
            trained, problem = lacks
            if scale not in (None, 1.0):
                raise ValueError(
                    f"this generator was trained on images {trained}: {problem}, leave the "
                    "guidance scale at 1"
                )
            if defaults.guidance_scale != 1:
                logging.warning("trained %s: there is no guidance", trained)
            return Guidance(1.0, low, high)
        return Guidance(defaults.guidance_scale if scale is None else scale, low, high)

    def sample(
        self,
        classes: str | int | Sequence[str | int] = "all",
        seed: int = 0,
        *,
        layouts: Float[np.ndarray, "b l 5"] | Float[np.ndarray, "l 5"] | None = None,
        method: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
    ) -> Tokens:
        """Samples an image for each class.

        The n-th image of a class is the same for a seed, whatever else is asked for beside it.

        Args:
          classes: names or numbers, repeated for several images of one; see ``labels``.
          seed: decides every image.
          layouts: initial Gaussians [B, L, 5] in place of those of stage 1; or [L, 5] for all. Any
            L is taken: they are what the network knows of positions. It was trained with
            ``model.num_tokens``.
          method: of sampling, see ``samplers.METHODS``; as the config says if None.
          steps: of sampling.
          guidance_scale: of classifier-free guidance; 1 is none.
          guidance_interval: times between which there is guidance; 0 is noise, 1 is data.

        Returns:
          Tokens [B, L, 5 + C], for ``Tokenizer.decode``.

        Raises:
          ValueError: for a class that is none, or if there are no layouts.
          FloatingPointError: if a sample is not finite.
        """
        labels = np.array(self.labels(classes))
        if not hasattr(seed, "__index__") or not -(2**63) <= seed < 2**63:
            raise ValueError(f"the seed must be a whole number of 64 bits, not {seed!r}")
        seen: Counter[int] = Counter()
        numbers = []
        for label in labels.tolist():
            numbers.append(seen[label])
            seen[label] += 1
        source = self.layouts if layouts is None else _given_layouts(layouts, len(labels))
        if source is None:
            raise ValueError(
                "there are no layouts: give from_pretrained(..., layouts=RUN_OR_FILE), or "
                "sample(..., layouts=GEOMETRY)"
            )
        how = self.sampler(method, steps), self.guidance(guidance_scale, guidance_interval)
        return Tokens.of(self._draw(labels, numbers, source, seed, *how)[1])

    def _draw(
        self,
        labels: Int[np.ndarray, " b"],
        numbers: Sequence[int],
        layouts: LayoutSampler | Float[np.ndarray, "..."],
        seed: int,
        sampler: Sampler,
        guidance: Guidance,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Layouts [B, L, 5], tokens [B, L, 5 + C] and evaluations [B] of the network."""
        layout_keys, token_keys = class_keys(seed, labels, numbers)
        if not isinstance(layouts, np.ndarray):
            layout_labels = self.layout_labels(layouts)[labels]
            layouts = np.asarray(layouts.sample(layout_keys, layout_labels, numbers), np.float32)
        layouts = np.broadcast_to(layouts, (len(labels), *layouts.shape[-2:]))
        x, evaluations = self._batch_sampler(sampler, guidance)(token_keys, labels, layouts)
        return layouts, self.normalisation.denormalise(x, layouts), evaluations

    def layout_labels(self, layouts: LayoutSampler) -> Int[np.ndarray, " k+1"]:
        """Maps each label to the layouts' label of that name; the last entry is for no class.

        Layouts without classes serve every one. A class that they lack gets a label that
        ``check_layouts`` refuses.
        """
        names = layouts.label_names
        if not names or not self.has_classes:
            return np.full(len(self.label_names) + 1, NO_CLASS, np.int32)
        number = {name: i for i, name in enumerate(names)}
        found = [number.get(name, _NO_LAYOUTS) for name in self.label_names]
        return np.array([*found, NO_CLASS], np.int32)

    def check_layouts(self, layouts: LayoutSampler, labels: Sequence[int], count: int = 1) -> None:
        """Checks that there are layouts of classes, for ``count`` images each.

        Raises:
          ValueError: naming the first of which there are none, or not enough of those in turn.
        """
        for label, found in zip(labels, self.layout_labels(layouts)[list(labels)], strict=True):
            if found == _NO_LAYOUTS:
                there = ", ".join(layouts.label_names[:8])
                raise ValueError(
                    f"there are no layouts of class {self.label_name(label)!r}, only of {there}"
                )
            layouts.check(int(found), count - 1)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Checks that a tokenizer can decode what is made here.

        Raises:
          CheckpointError: if its tokens have another number of features.
        """
        features = tokenizer.config.model.feature_channels
        if 5 + features != self.model.channels:
            raise CheckpointError(
                f"the tokenizer has {features} features a token, the generator makes "
                f"{self.model.channels - 5}"
            )

    def save_pretrained(self, directory: str | Path, *, dtype: str = "float32") -> None:
        """Writes the weights, the config and a model card; see ``Tokenizer.save_pretrained``."""
        pretrained.save(
            directory, self.config, sit_table(self.config.model), self.params, self.step, dtype
        )

    @functools.cached_property
    def _batch_sampler(self) -> Callable[[Sampler, Guidance], BatchSampler]:
        """Compiles once for every sampler and guidance."""
        return functools.cache(
            functools.partial(BatchSampler, self.model, self.params, self.transport)
        )


def _given_layouts(layouts: Any, count: int) -> Float[np.ndarray, "*b l 5"]:
    """The layouts of a caller, for so many images; ValueError if they cannot be."""
    try:
        array = np.asarray(layouts, np.float32)
    except (TypeError, ValueError):
        raise ValueError(
            f"layouts must be an array [B, L, 5] or [L, 5], not {type(layouts).__name__}; a run or "
            "a file is given to from_pretrained"
        ) from None
    if array.shape[-1:] != (5,) or array.ndim not in (2, 3):
        raise ValueError(f"layouts must be [B, L, 5] or [L, 5]; got {array.shape}")
    if array.ndim == 3 and len(array) not in (1, count):
        raise ValueError(
            f"there are {len(array)} layouts for {count} images: give one each, or one"
        )
    if not np.isfinite(array).all():
        raise ValueError("there are layouts with values that are not finite")
    return array


class Pipeline:
    """Makes images of classes, batch by batch: layout, texture, decoder.

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
        self._generator, self._tokenizer, self._batch_size = generator, tokenizer, batch_size
        self._how = layouts, seed, sampler, guidance

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
        layout, tokens, evaluations = self._generator._draw(labels, numbers, *self._how)
        made = {
            "geometry": tokens[..., :5],
            "initial_geometry": layout,
            "features": tokens[..., 5:],
            "image": self._tokenizer.decode(tokens),
            "evaluations": evaluations,
        }
        return {name: array[:count] for name, array in made.items()}


def takes_layouts_in_turn(config: ConfigDict) -> bool:
    """Tells whether a config takes each layout of a file once; those before the field do not."""
    return config.get("sample", {}).get("layouts", "random") == "in_turn"


def class_keys(
    seed: int, labels: Sequence[int], numbers: Sequence[int]
) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Makes keys [B] of the layout and of the texture of images, by their class and number."""
    key = jax.random.key(seed)

    def of_image(label, number):
        image = jax.random.fold_in(jax.random.fold_in(key, label), number)
        return jax.random.fold_in(image, 0), jax.random.fold_in(image, 1)

    return jax.vmap(of_image)(jnp.asarray(labels), jnp.asarray(numbers))
