"""How metrics are called and written, wherever people read them."""

from collections.abc import Iterable

HEADINGS = {  # shown in this order
    "bytes": "Bytes",
    "psnr": "PSNR",
    "psnr_inside": "PSNR in the focus",
    "psnr_outside": "PSNR outside it",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "rfid": "rFID",
    "fid": "FID",
    "sfid": "sFID",
    "frechet_vgg16": "Fréchet (VGG16)",
    "mse": "MSE",
}
UNITS = dict.fromkeys(("psnr", "psnr_inside", "psnr_outside"), " dB")
BETTER = dict.fromkeys(("psnr", "psnr_inside", "psnr_outside", "ssim"), "higher")
BETTER |= dict.fromkeys(("lpips", "mse", "rfid", "fid", "sfid", "frechet_vgg16"), "lower")
_DECIMALS = dict.fromkeys(("psnr", "psnr_inside", "psnr_outside", "rfid", "fid", "sfid"), 2)
_DECIMALS |= {"bytes": 0, "mse": 5}


def heading(name: str) -> str:
    """What a reader knows a metric by."""
    return HEADINGS.get(name, name)


def in_order(names: Iterable[str]) -> list[str]:
    """The metrics everybody knows first and always in one order, then any others as they come."""
    names = list(dict.fromkeys(names))
    return [n for n in HEADINGS if n in names] + [n for n in names if n not in HEADINGS]


def format_number(name: str, value: float | None, *, unit: bool = False, sign: bool = False) -> str:
    """A metric's value with the decimals that it deserves; a dash where there is none."""
    if value is None:
        return "–"
    number = f"{value:{'+' if sign else ''}.{_DECIMALS.get(name, 3)}f}".replace("-", "−")
    return number + (UNITS.get(name, "") if unit else "")


def is_better(name: str, value: float, other: float) -> bool:
    """Whether a value beats another of the same metric."""
    return value < other if BETTER.get(name) == "lower" else value > other


def arrow(name: str) -> str:
    """Which way is better; nothing if neither is."""
    return {"higher": "↑", "lower": "↓"}.get(BETTER.get(name), "")
