"""Moments of Adam in a training checkpoint that the release wrote.

``torch.optim.Adam`` keeps them by the number of each parameter, in the order in which the network's
layers were made. So they fit if there are as many parameters, and each has the shape that is due.
"""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpstoken_jax.runtime.files import reading
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.files import read_torch_file
from gpstoken_jax.weights.table import WeightTable

# Parts of names, in the order in which the release makes the layers of each module.
_ORDER = (
    ("decoder", "preprocess_img", "roialign_layer", "gps_embed", "attnblocks", "gps_embed_layer"),
    ("to_gps", "main"),
    ("conv_in", "mid", "up", "norm_out", "conv_out"),
    ("block_1", "attn_1", "block_2", "block", "upsample", "conv"),
    ("norm1", "conv1", "temb_proj", "norm2", "conv2", "nin_shortcut"),
    ("norm", "q", "k", "v", "proj_out"),
    ("roimlp", "ln1", "attn1", "ln2", "mlp", "in_proj_weight", "in_proj_bias", "out_proj"),
    ("weight", "bias"),
)
_RANK = {part: rank for rank, part in enumerate(itertools.chain(*_ORDER))}


class Moments(NamedTuple):
    """Adam's running averages.

    Attributes:
      path: the file.
      count: updates that they are of.
      first: of the gradients, ``{"params": ...}``.
      second: of their squares.
    """

    path: Path
    count: int
    first: dict[str, Any]
    second: dict[str, Any]


def optimizer_files(path: Path) -> list[Path]:
    """Files of optimizers in a folder that Accelerate wrote."""
    return sorted(path.glob("optimizer*.bin")) if path.is_dir() else []


def published_order(keys: Iterable[str]) -> list[str]:
    """Keys of the tokenizer or the discriminator in the order of the release's parameters."""

    def rank(key: str) -> list[int]:
        return [int(part) if part.isdigit() else _RANK[part] for part in key.split(".")]

    return sorted(keys, key=rank)


def read_moments(path: Path, table: WeightTable) -> Moments:
    """Reads the optimizer's state of a network.

    Args:
      path: what ``torch.save`` made of the ``state_dict()`` of ``torch.optim.Adam``.
      table: of the network.

    Raises:
      WeightsError: if it is none, or not of this network; says what does not fit.
      OSError: if it cannot be opened.
    """
    stored = read_torch_file(path)
    with reading(path, "the state of Adam", WeightsError):
        numbers = [number for group in stored["param_groups"] for number in group["params"]]
        state: Mapping[int, Mapping[str, Any]] = stored["state"]
        if not state:
            raise WeightsError("it has made no update")
        every, used = table.used | table.unused, table.used
        keys = published_order(every if len(numbers) == len(every) else used)
        if len(numbers) != len(keys):
            raise WeightsError(
                f"it is of {len(numbers)} parameters, and the network has {len(keys)}"
            )
        found = {k: state[n] for k, n in zip(keys, numbers, strict=True) if n in state}
        first, second = (
            table.from_torch({key: entry[name] for key, entry in found.items()})
            for name in ("exp_avg", "exp_avg_sq")
        )
        return Moments(path, max(int(entry["step"]) for entry in found.values()), first, second)
