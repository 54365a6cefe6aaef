"""Baselines of an evaluation, by the names that tables and flags have for them."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from jaxtyping import Float

from gpstoken_jax.data.loader import available_cores
from gpstoken_jax.evaluation.codecs import (
    CodecResult,
    bicubic_baseline,
    jpeg_baseline,
    webp_baseline,
)

NAMES = ("bicubic", "jpeg", "webp")
COMPRESSED = ("jpeg", "webp")  # hold bytes, not values
LABELS = {
    "bicubic": "Bicubic, same number of values",
    "jpeg": "JPEG, nearest size",
    "webp": "WebP, nearest size",
}
SHORT_LABELS = {"bicubic": "Bicubic", "jpeg": "JPEG", "webp": "WebP"}

Images = Float[np.ndarray, "b h w 3"]
Baseline = Callable[[Images], tuple[Images, Mapping[str, np.ndarray]]]


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
    """Functions of a batch, for tokens of so many values and bytes an image.

    They return the images and further numbers of each, by name: the ``bytes`` of its file.
    """
    known = {
        "bicubic": partial(_bicubic, num_values=num_values),
        "jpeg": partial(_compressed, codec=jpeg_baseline, num_bytes=num_bytes),
        "webp": partial(_compressed, codec=webp_baseline, num_bytes=num_bytes),
    }
    return {name: known[name] for name in names}


def _bicubic(images: Images, num_values: int) -> tuple[Images, dict]:
    return bicubic_baseline(images, num_values), {}


def _compressed(
    images: Images, codec: Callable[[Images, int], CodecResult], num_bytes: int
) -> tuple[Images, dict]:
    """Image by image in threads: Pillow lets others work while it encodes."""
    with ThreadPoolExecutor(available_cores()) as threads:
        made = list(threads.map(lambda image: codec(image[None], num_bytes), images))
    sizes = np.concatenate([one.num_bytes for one in made]).astype(np.float64)
    return np.concatenate([one.images for one in made]), {"bytes": sizes}


def describe_baselines(names: Iterable[str], num_values: int, num_bytes: int) -> dict[str, str]:
    """What the protocol says of the baselines."""
    budget = f"files of at most {num_bytes} bytes where possible, the best by squared error"
    texts = {
        "bicubic": f"bicubic down to at most {num_values} values and up again",
        "jpeg": f"JPEG: {budget}",
        "webp": f"WebP: {budget}",
    }
    return {"baselines": "; ".join(texts[name] for name in names) or "none"}
