"""How close reconstructions are to their originals: per-image values and mergeable means.

Definitions, as they go into an evaluation's protocol:

- values are compared in [0, 1], after clipping and (by default) rounding the reconstruction to the
  8 bits that an image file would hold;
- PSNR is computed per image from the mean squared error over pixels and colours, capped at 100 dB
  (equal images), and averaged over images in dB;
- SSIM (Wang et al. 2004) uses an 11 x 11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03 and
  population statistics, on each of R, G, B, averaged over channels and over the positions where the
  window lies inside the image;
- LPIPS is version 0.1 on images in [-1, 1].
"""

from collections.abc import Mapping
from typing import Literal, Self

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from gpstoken_jax.perceptual.lpips import lpips
from gpstoken_jax.perceptual.weights import LPIPSWeights

Rounding = Literal["round", "truncate", "none"]

METRIC_DEFINITIONS = {
    "psnr": "in dB, of each image over [0, 1], capped at 100; mean over images",
    "ssim": "11 × 11 Gaussian window of sigma 1.5; mean over R, G, B and valid positions",
    "lpips": "version 0.1 on images in [-1, 1]; lower is more alike",
    "mse": "mean squared error over [0, 1]",
}

_SSIM_WINDOW = 11
_LOWEST_MSE = 1e-10  # 100 dB


def to_unit_range(
    images: Float[Array, "*b h w c"], rounding: Rounding = "none"
) -> Float[Array, "*b h w c"]:
    """Map images from [-1, 1] to [0, 1], clipped, optionally to the 256 levels of 8 bits.

    rounding: "round" to the nearest level, "truncate" to the level below (as the published release
    writes files) or "none". Raises ValueError for anything else.
    """
    unit = jnp.clip((images.astype(jnp.float32) + 1) / 2, 0, 1)
    if rounding == "none":
        return unit
    if rounding not in ("round", "truncate"):
        raise ValueError(f'rounding must be "round", "truncate" or "none", not {rounding!r}.')
    level = jnp.round if rounding == "round" else jnp.floor
    return level(unit * 255) / 255


def mse(x: Float[Array, "b h w c"], y: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Mean squared error of each pair of images, over pixels and channels."""
    return jnp.mean(jnp.square(x - y), axis=(1, 2, 3))


def psnr(x: Float[Array, "b h w c"], y: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Peak signal-to-noise ratio in dB of each pair of images in [0, 1]; 100 for equal ones."""
    return -10 * jnp.log10(jnp.maximum(mse(x, y), _LOWEST_MSE))


def ssim(x: Float[Array, "b h w c"], y: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Structural similarity of each pair of images in [0, 1]: 11 x 11 Gaussian, mean over channels.

    Raises ValueError for images smaller than the window.
    """
    if min(x.shape[1:3]) < _SSIM_WINDOW:
        raise ValueError(f"SSIM needs sides of at least {_SSIM_WINDOW} pixels, not {x.shape[1:3]}.")
    return dm_pix.ssim(x, y, max_val=1.0, filter_size=_SSIM_WINDOW, filter_sigma=1.5)


def image_metrics(
    images: Float[Array, "b h w 3"],
    reconstructions: Float[Array, "b h w 3"],
    *,
    lpips_weights: LPIPSWeights | None = None,
    rounding: Rounding = "round",
) -> dict[str, Float[Array, " b"]]:
    """Every metric of every image: {"psnr", "ssim", "mse"} and "lpips" when weights are given.

    images, reconstructions: in [-1, 1]; `rounding` is applied to the reconstructions only.
    Can be jitted, mapped and differentiated like any other function; `rounding` is static.
    """
    truth, guess = to_unit_range(images), to_unit_range(reconstructions, rounding)
    values = {"psnr": psnr(guess, truth), "ssim": ssim(guess, truth), "mse": mse(guess, truth)}
    if lpips_weights is not None:
        values["lpips"] = lpips(lpips_weights, 2 * guess - 1, 2 * truth - 1)
    return values


@struct.dataclass
class Mean:
    """A mean that can be taken in parts: the sum of the values and how many there were.

    Lives on the host in float64, so the parts of any sharding of one data set merge to the same
    mean to about 15 digits. 16 bytes, however many images it stands for.
    """

    total: np.float64
    count: np.int64

    @classmethod
    def empty(cls) -> Self:
        return cls(np.float64(0), np.int64(0))

    @classmethod
    def of(
        cls, values: Float[Array, "*n"] | np.ndarray, mask: Bool[Array, "*n"] | None = None
    ) -> Self:
        """The mean of `values`; entries where `mask` is false (padding) do not count."""
        values = np.asarray(jax.device_get(values), np.float64)
        kept = values if mask is None else values[np.asarray(jax.device_get(mask), bool)]
        return cls(np.float64(kept.sum()), np.int64(kept.size))

    def merge(self, other: Self) -> Self:
        return type(self)(self.total + other.total, self.count + other.count)

    def compute(self) -> float:
        """The mean so far. Raises ValueError when there was nothing to average."""
        if self.count == 0:
            raise ValueError("The mean of no images was asked for.")
        return float(self.total / self.count)


def accumulate(
    means: Mapping[str, Mean],
    values: Mapping[str, Float[Array, "*n"]],
    mask: Bool[Array, "*n"] | None = None,
) -> dict[str, Mean]:
    """Add a batch of per-image values to running means; start from `{}`.

    Raises ValueError when the batch has other metrics than the means so far.
    """
    return merge_means(means, {name: Mean.of(value, mask) for name, value in values.items()})


def merge_means(first: Mapping[str, Mean], second: Mapping[str, Mean]) -> dict[str, Mean]:
    """Merge the means of two shards, name by name; an empty mapping is neutral.

    Raises ValueError when the two hold different metrics.
    """
    if not first or not second:
        return dict(first or second)
    if first.keys() != second.keys():
        raise ValueError(f"Cannot merge metrics {sorted(first)} with {sorted(second)}.")
    return {name: first[name].merge(second[name]) for name in first}


def compute_means(means: Mapping[str, Mean]) -> dict[str, float]:
    """The plain numbers of running means. Raises ValueError when nothing was averaged."""
    return {name: mean.compute() for name, mean in means.items()}
