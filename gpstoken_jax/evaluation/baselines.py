"""Baselines of an evaluation, by the names that tables and flags have for them."""

from collections.abc import Iterable
from functools import partial

from gpstoken_jax.baselines import bicubic_baseline
from gpstoken_jax.evaluation.methods import Baseline

NAMES = ("bicubic",)
COMPRESSED = ("jpeg", "webp")  # hold bytes, not values
LABELS = {"bicubic": "Bicubic, same number of values"}
SHORT_LABELS = {"bicubic": "Bicubic"}


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names, if all are known.

    Raises:
      ValueError: for one that is not.
    """
    for name in names:
        if name not in NAMES:
            raise ValueError(f"--baselines: {name!r} is unknown; there are {', '.join(NAMES)}")
    return tuple(dict.fromkeys(names))


def make_baselines(names: Iterable[str], num_values: int, num_bytes: int) -> dict[str, Baseline]:
    """Functions of a batch, for tokens of so many values and bytes an image."""
    return {name: partial(_bicubic, num_values=num_values) for name in names}


def _bicubic(images, num_values):
    return bicubic_baseline(images, num_values), {}


def describe_baselines(names: Iterable[str], num_values: int, num_bytes: int) -> dict[str, str]:
    """What the protocol says of the baselines."""
    texts = {"bicubic": f"bicubic down to at most {num_values} values and up again"}
    return {"baseline": "; ".join(texts[name] for name in names) or "none"}
