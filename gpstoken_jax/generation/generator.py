"""A trained generator of texture: its network with weights, as a run's directory has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gpstoken_jax.generation.normalisation import Normalisation
from gpstoken_jax.generation.sit import SiT, create_sit, init_params
from gpstoken_jax.generation.transport import Transport
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.runtime.run_directory import Tokenizer, load_weights


@dataclass(frozen=True)
class Generator:
    """Stage 2 of generation.

    Attributes:
      model: the Flax module.
      params: what it takes, ``{"params": ...}``.
      config: the whole config of the run.
      step: training step of the weights.
      transport: what the network predicts.
      normalisation: of the tokens that it makes.
    """

    model: SiT
    params: Any
    config: ConfigDict
    step: int
    transport: Transport
    normalisation: Normalisation

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes; their numbers where they have no names."""
        return tuple(self.config.label_names) or tuple(map(str, range(self.model.num_classes)))

    def find_labels(self, wanted: Sequence[str]) -> list[int]:
        """Classes by name or number; ``"all"`` is every one.

        Raises:
          ValueError: for one that is none.
        """
        names = self.label_names
        if list(wanted) == ["all"]:
            return list(range(len(names)))
        labels = []
        for name in wanted:
            if name in names:
                labels.append(names.index(name))
            elif name.isdigit() and int(name) < len(names):
                labels.append(int(name))
            else:
                shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
                raise ValueError(f"{name!r} is no class of this generator: it has {shown}")
        return labels

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Sees to it that a tokenizer can decode what is made here.

        Raises:
          CheckpointError: if its tokens have another number of features.
        """
        features = tokenizer.config.model.feature_channels
        if 5 + features != self.model.channels:
            raise CheckpointError(
                f"the tokenizer has {features} features a token, the generator makes "
                f"{self.model.channels - 5}"
            )


def load_generator(
    root: str | Path, *, step: int | None = None, weights: str = "ema_params"
) -> Generator:
    """Loads a trained (or converted) generator.

    Args:
      root: the run's directory.
      step: which checkpoint; the newest that can be read if None.
      weights: ``"ema_params"`` or ``"params"``.

    Raises:
      CheckpointError: if something is missing or does not fit together; says what.
    """
    config, model, params, step = load_weights(
        root, "sit", create_sit, init_params, step=step, weights=weights
    )
    return Generator(
        model,
        params,
        config,
        step,
        Transport.of(config.transport),
        Normalisation.of(config.statistics),
    )
