"""What all cells of an evaluation share."""

from dataclasses import dataclass
from pathlib import Path

from gpstoken_jax.evaluation.features import FeatureNetwork
from gpstoken_jax.features.weights import LPIPSWeights
from gpstoken_jax.metrics.frechet import Gaussian


@dataclass(frozen=True)
class Settings:
    """How everything is measured; None is what a checkpoint's config says.

    Attributes:
      step, weights: which weights of a checkpoint, see ``run_directory.load_tokenizer``.
      split: of the data; by default all of a folder that was given, else the held-out split.
      batch_size, rounding, high_resolution: see ``configs/common.py``, section eval.
      focus, bias_map: see ``focus.parse_focus`` and ``focus.read_strength_map``.
      lpips: its weights, or None to leave it out.
      network: whose features Fréchet distances compare, or None to leave them out.
      reference, reference_name: statistics to compare reconstructions with instead of the images'
        own, by feature set, and where they are from.
      save_statistics: where those of the images themselves are saved.
      baselines: names of those beside the evaluated method.
      bytes_per_value: storage of a token's value that compressed baselines may spend.
    """

    step: int | None = None
    weights: str = "ema_params"
    split: str | None = None
    batch_size: int | None = None
    rounding: str | None = None
    high_resolution: str | None = None
    focus: tuple[str, ...] = ()
    bias_map: str | None = None
    lpips: LPIPSWeights | None = None
    network: FeatureNetwork | None = None
    reference: dict[str, Gaussian] | None = None
    reference_name: str | None = None
    save_statistics: Path | None = None
    baselines: tuple[str, ...] = ("bicubic",)
    bytes_per_value: int = 2
