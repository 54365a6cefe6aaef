"""Distances of reconstructions from their originals: per-image values and mergeable means.

Values are compared in [0, 1], after clipping and (by default) rounding the reconstruction to the 8
bits that an image file would hold. PSNR and SSIM are each computed in several ways in the
literature, which differ by more than methods do; `catalogue.METRICS` defines each name, and goes
into an evaluation's results.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, Self

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float

from gpstoken_jax.features.lpips import LPIPSWeights, lpips

Rounding = Literal["round", "truncate", "none"]

Window = Literal["gaussian", "uniform"]

DEFAULT_METRICS = ("psnr", "ssim", "mse")

_WINDOW_SIDES = {"gaussian": 11, "uniform": 7}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_STUDIO_SPAN = 219 / 255
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


def local_psnr(
    images: Float[Array, "b h w 3"],
    reconstructions: Float[Array, "b h w 3"],
    inside: Bool[Array, "h w"],
    rounding: Rounding = "round",
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """PSNR in dB over the pixels inside a focus, and over those outside, of images in [-1, 1]."""
    error = jnp.square(to_unit_range(images) - to_unit_range(reconstructions, rounding)).mean(-1)

    def over(mask: Bool[Array, "h w"]) -> Float[Array, " b"]:
        mse = jnp.where(mask, error, 0).sum((1, 2)) / mask.sum()
        return -10 * jnp.log10(jnp.maximum(mse, _LOWEST_MSE))

    return over(inside), over(~inside)


def dataset_psnr(mean_mse: float) -> float:
    """PSNR in dB of the mean squared error over a whole set, capped at 100.

    Lower than the mean of the images' PSNRs unless all are equally good: it is ruled by the worst.
    """
    return float(-10 * np.log10(max(mean_mse, _LOWEST_MSE)))


def luma(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 1"]:
    """Brightness of images in [0, 1] by BT.601, full range: 0.299 R + 0.587 G + 0.114 B."""
    return jnp.sum(images * _LUMA, axis=-1, keepdims=True)


def ssim(
    x: Float[Array, "b h w c"], y: Float[Array, "b h w c"], *, window: Window = "gaussian"
) -> Float[Array, " b"]:
    """Structural similarity of each pair of images in [0, 1], mean over channels and positions.

    Wang et al. 2004, K1 = 0.01, K2 = 0.03; positions are those where the window lies inside.
    window: "gaussian" is the paper's 11 x 11 of sigma 1.5 with population statistics; "uniform" is
    scikit-image's default, 7 x 7 with sample covariances.
    Raises ValueError for another window and for images smaller than it.
    """
    if window not in _WINDOW_SIDES:
        raise ValueError(f"window must be one of {sorted(_WINDOW_SIDES)}, not {window!r}.")
    side = _WINDOW_SIDES[window]
    if min(x.shape[1:3]) < side:
        raise ValueError(f"SSIM needs sides of at least {side} pixels, not {x.shape[1:3]}.")
    if window == "gaussian":
        return dm_pix.ssim(x, y, max_val=1.0, filter_size=side, filter_sigma=1.5)
    return _uniform_ssim(x, y, side)


def _uniform_ssim(
    x: Float[Array, "b h w c"], y: Float[Array, "b h w c"], side: int
) -> Float[Array, " b"]:
    mean = partial(nn.avg_pool, window_shape=(side, side))
    sample = side * side / (side * side - 1)
    mean_x, mean_y = mean(x), mean(y)
    variances = sample * (mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2)
    covariance = sample * (mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _psnr_luma_studio(x: Float[Array, "b h w 3"], y: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    return psnr(_STUDIO_SPAN * luma(x), _STUDIO_SPAN * luma(y))


def _of_luma(metric: Callable) -> Callable:
    return lambda x, y: metric(luma(x), luma(y))


_METRICS: dict[str, Callable] = {
    "psnr": psnr,
    "psnr_luma": _of_luma(psnr),
    "psnr_luma_studio": _psnr_luma_studio,
    "ssim": ssim,
    "ssim_luma": _of_luma(ssim),
    "ssim_uniform": partial(ssim, window="uniform"),
    "ssim_uniform_luma": _of_luma(partial(ssim, window="uniform")),
    "mse": mse,
}
PIXEL_METRICS = tuple(_METRICS)
_LPIPS_NAMES = {"vgg16": "lpips", "alexnet": "lpips_alex"}


def image_metrics(
    images: Float[Array, "b h w 3"],
    reconstructions: Float[Array, "b h w 3"],
    *,
    lpips_weights: LPIPSWeights | Sequence[LPIPSWeights] | None = None,
    rounding: Rounding = "round",
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, Float[Array, " b"]]:
    """Every metric of every image by name, see `catalogue.METRICS`.

    images, reconstructions: in [-1, 1]; `rounding` is applied to the reconstructions only.
    metrics: names of `PIXEL_METRICS`; by default {"psnr", "ssim", "mse"}.
    lpips_weights: adds "lpips" for VGG16's and "lpips_alex" for AlexNet's.
    Can be jitted, mapped and differentiated like any other function; `rounding` and `metrics` are
    static. Raises ValueError for a name that is not known.
    """
    for name in metrics:
        if name not in _METRICS:
            raise ValueError(f"metric {name!r} is unknown; there are {', '.join(PIXEL_METRICS)}.")
    truth, guess = to_unit_range(images), to_unit_range(reconstructions, rounding)
    values = {name: _METRICS[name](guess, truth) for name in metrics}
    if isinstance(lpips_weights, LPIPSWeights):
        lpips_weights = [lpips_weights]
    for weights in lpips_weights or ():
        values[_LPIPS_NAMES[weights.network]] = lpips(weights, 2 * guess - 1, 2 * truth - 1)
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
        """The mean of nothing."""
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
        """The mean of both parts."""
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
