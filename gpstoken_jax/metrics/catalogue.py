"""Names, order, units and definitions of all metrics, wherever people read them."""

from collections.abc import Iterable
from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A metric as a reader meets it; ``better`` is None where neither way is."""

    heading: str
    definition: str
    better: Literal["higher", "lower"] | None
    decimals: int = 3
    unit: str = ""


def _psnr(heading: str, definition: str) -> Metric:
    return Metric(heading, definition, "higher", 2, " dB")


_BETWEEN = "Fréchet distance between all reconstructions and"
_NEAR = "the third neighbour's distance of one of the originals (or the reference's images)"
_NEAR_MADE = "the third neighbour's distance of one of the images"
METRICS = {  # shown in this order
    "bytes": Metric(
        "Bytes", "storage of an image: values at their size, or the mean size of the files", None, 0
    ),
    "psnr": _psnr("PSNR", "in dB, of each image over [0, 1], capped at 100; mean over images"),
    "psnr_inside": _psnr("PSNR in the focus", "as PSNR, over the pixels in the focus"),
    "psnr_outside": _psnr("PSNR outside it", "as PSNR, over the other pixels"),
    "psnr_dataset": _psnr(
        "PSNR of the set", "in dB, of the mean squared error over all images together"
    ),
    "psnr_luma": _psnr(
        "PSNR of luma", "as psnr, of the luma 0.299 R + 0.587 G + 0.114 B (BT.601, full range)"
    ),
    "psnr_luma_studio": _psnr(
        "PSNR of studio luma",
        "as psnr, of the luma scaled to 16..235 of 255 (BT.601, as in MATLAB's rgb2ycbcr): 1.32 dB "
        "above psnr_luma, usual in super-resolution",
    ),
    "ssim": Metric(
        "SSIM", "11 × 11 Gaussian window of sigma 1.5; mean over R, G, B and valid positions",
        "higher",
    ),
    "ssim_luma": Metric(
        "SSIM of luma", "as ssim, of the luma 0.299 R + 0.587 G + 0.114 B (BT.601, full range)",
        "higher",
    ),
    "ssim_uniform": Metric(
        "SSIM (uniform)",
        "7 × 7 uniform window, sample covariance (scikit-image's default); mean over R, G, B and "
        "valid positions",
        "higher",
    ),
    "ssim_uniform_luma": Metric(
        "SSIM (uniform) of luma", "as ssim_uniform, of the luma 0.299 R + 0.587 G + 0.114 B",
        "higher",
    ),
    "lpips": Metric("LPIPS", "version 0.1 on images in [-1, 1]; lower is more alike", "lower"),
    "lpips_alex": Metric(
        "LPIPS (AlexNet)",
        "LPIPS version 0.1 with AlexNet on images in [-1, 1]; lower is more alike",
        "lower",
    ),
    "rfid": Metric(
        "rFID",
        f"{_BETWEEN} the originals of the same images, in the 2048 pool features of Inception-v3 "
        "(TensorFlow 2015-12-05), resized as in TensorFlow 1",
        "lower",
        2,
    ),
    "fid": Metric(
        "FID to reference", f"{_BETWEEN} the reference, in the same features as rFID", "lower", 2
    ),
    "rsfid": Metric(
        "rsFID",
        f"{_BETWEEN} the originals of the same images, in 7 x 17 x 17 spatial features (Mixed_6d) "
        "of the network of rFID",
        "lower",
        2,
    ),
    "sfid": Metric(
        "sFID to reference", f"{_BETWEEN} the reference, in the same features as rsFID", "lower", 2
    ),
    "inception_score": Metric(
        "Inception Score",
        "of the classes that Inception-v3 (TensorFlow 2015-12-05) sees; mean over every 5,000 "
        "images in their order",
        "higher",
        2,
    ),
    "precision": Metric(
        "Precision", f"share of the images within {_NEAR}, in the features of rFID", "higher"
    ),
    "recall": Metric(
        "Recall", f"share of the originals (or the reference's images) within {_NEAR_MADE}, in the "
        "features of rFID", "higher",
    ),
    "precision_vgg16": Metric(
        "Precision (VGG16)", f"share of the images within {_NEAR}, in the features of "
        "Fréchet (VGG16); not comparable with precision", "higher",
    ),
    "recall_vgg16": Metric(
        "Recall (VGG16)",
        f"share of the originals (or the reference's images) within {_NEAR_MADE}, in the features "
        "of Fréchet (VGG16); not comparable with recall",
        "higher",
    ),
    "frechet_vgg16": Metric(
        "Fréchet (VGG16)",
        f"{_BETWEEN} the originals in the 512 pooled relu5_3 features of VGG16; this is no FID",
        "lower",
    ),
    "frechet_vgg16_reference": Metric(
        "Fréchet (VGG16) to reference",
        f"{_BETWEEN} the reference in the same features as Fréchet (VGG16); this is no FID",
        "lower",
    ),
    "mse": Metric("MSE", "mean squared error over [0, 1]", "lower", 5),
}  # fmt: skip


def heading(name: str) -> str:
    """Text that a reader knows a metric by."""
    return METRICS[name].heading if name in METRICS else name


def in_order(names: Iterable[str]) -> list[str]:
    """The metrics everybody knows first and always in one order, then any others as they come."""
    names = list(dict.fromkeys(names))
    return [n for n in METRICS if n in names] + [n for n in names if n not in METRICS]


def format_number(name: str, value: float | None, *, unit: bool = False, sign: bool = False) -> str:
    """A metric's value with the decimals that it deserves; a dash where there is none."""
    if value is None:
        return "–"
    metric = METRICS.get(name, Metric(name, "", None))
    number = f"{value:{'+' if sign else ''}.{metric.decimals}f}".replace("-", "−")
    return number + metric.unit * unit


def direction(name: str) -> str | None:
    """``"higher"`` or ``"lower"``, whichever is better; None if neither is."""
    return METRICS[name].better if name in METRICS else None


def is_better(name: str, value: float, other: float) -> bool:
    """Tells whether a value beats another of the same metric."""
    return value < other if direction(name) == "lower" else value > other


def arrow(name: str) -> str:
    """An arrow to the better values; nothing if neither way is better."""
    return {"higher": "↑", "lower": "↓"}.get(direction(name), "")
