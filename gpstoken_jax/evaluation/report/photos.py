"""One photo on a page: its pictures, and what the script makes a slider of."""

import base64
import io
from collections.abc import Mapping
from html import escape

import numpy as np
from PIL import Image

from gpstoken_jax.evaluation.report.figures import Figure, Picture, ReportRow
from gpstoken_jax.evaluation.report.numbers import format_number, heading, in_order, is_better

_PIXELS_VISIBLE_BELOW = 160


def photo(row: ReportRow, tag: str = "") -> str:
    """A photo with all its pictures; `tag` says why it is shown."""
    change = change_text("psnr", row.metrics, (row.baseline_name, row.baseline_metrics))
    pictures = "".join(_figure(row.name, figure) for figure in row.figures())
    badge = f'<span class="tag">{escape(tag)}</span> ' if tag else ""
    return (
        f'<article class="photo">\n<header><h3>{badge}{escape(row.name)}</h3>'
        f'<span>{change}</span></header>\n<div class="pictures">\n{pictures}</div>\n</article>\n'
    )


def compare_card(
    tag: str, name: str, pictures: Mapping[str, Picture], metrics: Mapping[str, float]
) -> str:
    """A small card with a slider, and without the script with the pictures side by side."""
    figures = [Figure(text, picture, True, {}, True) for text, picture in pictures.items()]
    shown = "".join(_figure(name, figure) for figure in figures)
    return (
        f'<article class="photo small">\n<header><h3><span class="tag">{escape(tag)}</span> '
        f'{escape(name)}</h3><span class="quiet">{_numbers(metrics)}</span></header>\n'
        f'<div class="pictures">\n{shown}</div>\n</article>\n'
    )


def change_text(
    name: str, model: Mapping[str, float], other: tuple[str, Mapping[str, float]]
) -> str:
    """How much better or worse than another method, coloured by which of the two it is."""
    method, means = other
    if name not in means or name not in model:
        return ""
    kind = "good" if is_better(name, model[name], means[name]) else "bad"
    difference = format_number(name, model[name] - means[name], unit=True, sign=True)
    return f'<span class="{kind}">{difference}</span> against {escape(method)}'


def _numbers(metrics: Mapping[str, float]) -> str:
    return " · ".join(
        f"{escape(heading(n))} {format_number(n, metrics[n], unit=True)}"
        for n in in_order(metrics)
        if n not in ("mse", "bytes")
    ) + (f" · {metrics['bytes']:.0f} bytes" if "bytes" in metrics else "")


def _figure(name: str, figure: Figure) -> str:
    numbers = _numbers(figure.metrics)
    below = f'<span class="numbers">{numbers}</span>' if numbers else ""
    return (
        f"<figure>{_image(name, figure)}"
        f"<figcaption>{escape(figure.caption)}{below}</figcaption></figure>\n"
    )


def _image(name: str, figure: Figure) -> str:
    """An <img> with its data inside; small ones are enlarged with their pixels visible."""
    height, width = figure.picture.shape[:2]
    pixels = ' class="pixels"' if min(height, width) < _PIXELS_VISIBLE_BELOW else ""
    compared = f' data-compare="{escape(figure.caption)}"' if figure.compared else ""
    return (
        f'<img{pixels} src="{_data_uri(figure.picture, figure.exact)}" '
        f'width="{width}" height="{height}"{compared} '
        f'alt="{escape(f"{figure.caption}: {name}")}">'
    )


def _data_uri(picture: Picture, exact: bool) -> str:
    """PNG for what must be exact; WebP, far smaller, for drawings."""
    kind, options = ("png", {"optimize": True}) if exact else ("webp", {"quality": 88})
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
