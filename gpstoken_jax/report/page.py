"""An evaluation as one HTML file: a summary on top, then every photo and what became of it.

The file stands alone: pictures are inside it, it loads nothing and runs no script.
"""

import base64
import io
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from gpstoken_jax.metrics import METRIC_DEFINITIONS
from gpstoken_jax.report.figures import MAX_ERROR, Figure, Picture, ReportRow

_CSS = Path(__file__).with_name("report.css")
_HEADINGS = {  # shown in this order
    "psnr": "PSNR",
    "psnr_inside": "PSNR in the focus",
    "psnr_outside": "PSNR outside it",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "mse": "MSE",
}
_UNITS = dict.fromkeys(("psnr", "psnr_inside", "psnr_outside"), " dB")
_DECIMALS = {"psnr": 2, "psnr_inside": 2, "psnr_outside": 2, "mse": 5}
_LOWER_IS_BETTER = {"lpips", "mse"}
_PIXELS_VISIBLE_BELOW = 160


@dataclass(frozen=True)
class ReportSummary:
    """What stands above the photos.

    title: a line; lead: a sentence or two below it
    notes: paragraphs on how to read what the rows have besides
    definitions: what each metric is, by its name
    methods: mean metrics by method name; the model first, then what it is compared with
    protocol: what was measured and how, in the order shown: crop, size, colour range, rounding,
        number of images, checkpoint step, commit, ...
    """

    title: str
    methods: Mapping[str, Mapping[str, float]]
    protocol: Mapping[str, object]
    lead: str = ""
    notes: tuple[str, ...] = ()
    definitions: Mapping[str, str] = field(default_factory=lambda: METRIC_DEFINITIONS)


def write_report(path: str | Path, summary: ReportSummary, rows: Iterable[ReportRow]) -> Path:
    """Write the report to `path` and return it; folders are made, an older file is replaced.

    rows: may be a generator: one photo at a time is encoded and written. The file appears under its
    name only when it is whole; after an error or a kill the older one is still there.
    Raises ValueError when there is no method to show, OSError when the place cannot be written.
    """
    if not summary.methods:
        raise ValueError("A report needs the mean metrics of at least one method.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.writelines(_page(summary, rows))
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _page(summary: ReportSummary, rows: Iterable[ReportRow]) -> Iterable[str]:
    """The page in pieces, so that no more than one photo is held as text."""
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(summary.title)}</title>\n"
        f"<style>\n{_CSS.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
    )
    yield _headline(summary)
    yield f"<h2>Means over all images</h2>\n{_table(summary.methods)}"
    yield f"<h2>What was measured</h2>\n{_definitions(summary.protocol)}"
    yield f"<h2>How to read this</h2>\n{_legend(summary)}"
    yield "<h2>Photos</h2>\n"
    baseline_name = ([*summary.methods][1:] or ["Baseline"])[0]
    for row in rows:
        yield _photo(row, baseline_name)
    yield "</main>\n</body>\n</html>\n"


def _format(name: str, value: float | None, *, unit: bool = False, sign: bool = False) -> str:
    if value is None:
        return "–"
    number = f"{value:{'+' if sign else ''}.{_DECIMALS.get(name, 3)}f}".replace("-", "−")
    return number + (_UNITS.get(name, "") if unit else "")


def _is_better(name: str, value: float, other: float) -> bool:
    return value < other if name in _LOWER_IS_BETTER else value > other


def _heading(name: str) -> str:
    return escape(_HEADINGS.get(name, name))


def _in_order(names: Iterable[str]) -> list[str]:
    """The metrics everybody knows first and always in one order, then any others as they come."""
    names = list(dict.fromkeys(names))
    return [n for n in _HEADINGS if n in names] + [n for n in names if n not in _HEADINGS]


def _headline(summary: ReportSummary) -> str:
    """Title and one tile a metric: the model's mean and how far it is from the baseline's."""
    (_, model), *others = summary.methods.items()
    tiles = "".join(
        f'<li><span class="name quiet">{_heading(name)}</span>'
        f'<span class="value">{_format(name, model[name], unit=True)}</span>'
        f'<span class="change">{_change(name, model, others[0]) if others else ""}</span></li>\n'
        for name in _in_order(model)
        if name != "mse"
    )
    lead = f'<p class="lead quiet">{escape(summary.lead)}</p>\n' if summary.lead else ""
    return f'<h1>{escape(summary.title)}</h1>\n{lead}<ul class="tiles">\n{tiles}</ul>\n'


def _change(name: str, model: Mapping[str, float], other: tuple[str, Mapping[str, float]]) -> str:
    """How much better or worse than another method, coloured by which of the two it is."""
    method, means = other
    if name not in means or name not in model:
        return ""
    kind = "good" if _is_better(name, model[name], means[name]) else "bad"
    difference = _format(name, model[name] - means[name], unit=True, sign=True)
    return f'<span class="{kind}">{difference}</span> against {escape(method)}'


def _table(methods: Mapping[str, Mapping[str, float]]) -> str:
    names = _in_order(name for means in methods.values() for name in means)
    best = {
        name: sorted(
            (means[name] for means in methods.values() if name in means),
            reverse=name not in _LOWER_IS_BETTER,
        )[0]
        for name in names
    }
    head = "".join(
        f'<th scope="col">{_heading(n)} {"↓" if n in _LOWER_IS_BETTER else "↑"}</th>' for n in names
    )
    body = "".join(
        f'<tr><th scope="row">{escape(method)}</th>'
        + "".join(_cell(name, means.get(name), best[name]) for name in names)
        + "</tr>\n"
        for method, means in methods.items()
    )
    return (
        '<div class="scroll"><table>\n<thead><tr><th scope="col">Method</th>'
        f"{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _cell(name: str, value: float | None, best: float) -> str:
    kind = ' class="best"' if value == best else ""
    return f"<td{kind}>{_format(name, value)}</td>"


def _definitions(items: Mapping[str, object], kind: str = "") -> str:
    entries = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>\n"
        for name, value in items.items()
    )
    return f'<dl class="{kind}">\n{entries}</dl>\n'


def _legend(summary: ReportSummary) -> str:
    model = next(iter(summary.methods.values()))
    metrics = {
        _HEADINGS.get(name, name): summary.definitions[name]
        for name in _in_order(model)
        if name in summary.definitions
    }
    return (
        '<p class="lead">Ellipses are the contours of the Gaussians at one sigma. Their colour '
        "says how much area a token covered at the start, warm for the smallest, and stays with "
        "the token when the encoder moves and reshapes it. The error is the absolute difference "
        "between original and reconstruction, mean over colours: "
        f'<span class="range">0 <span class="scale" style="background: {_error_gradient()}">'
        f"</span> {MAX_ERROR:.0%}</span> of the colour range or more.</p>\n"
        + "".join(f'<p class="lead">{escape(note)}</p>\n' for note in summary.notes)
        + _definitions(metrics, "wide")
    )


def _error_gradient() -> str:
    stops = matplotlib.colormaps["inferno"](np.linspace(0, 1, 9), bytes=True)[:, :3]
    colours = ", ".join("#" + bytes(stop.tolist()).hex() for stop in stops)
    return f"linear-gradient(to right, {colours})"


def _photo(row: ReportRow, baseline_name: str) -> str:
    change = _change("psnr", row.metrics, (baseline_name, row.baseline_metrics))
    figures = (
        Figure("Original", row.original, exact=True),
        Figure("Initial Gaussians", row.initial),
        Figure("Refined Gaussians", row.refined),
        Figure("Reconstruction", row.reconstruction, True, row.metrics),
        Figure(baseline_name, row.baseline, True, row.baseline_metrics),
        Figure("Error", row.error, exact=True),
        *row.more,
    )
    pictures = "".join(_figure(row.name, figure) for figure in figures)
    return (
        f'<article class="photo">\n<header><h3>{escape(row.name)}</h3>'
        f'<span>{change}</span></header>\n<div class="pictures">\n{pictures}</div>\n</article>\n'
    )


def _figure(name: str, figure: Figure) -> str:
    numbers = " · ".join(
        f"{_heading(n)} {_format(n, figure.metrics[n], unit=True)}"
        for n in _in_order(figure.metrics)
        if n != "mse"
    )
    below = f'<span class="numbers">{numbers}</span>' if numbers else ""
    image = _image(figure.picture, f"{figure.caption}: {name}", figure.exact)
    return f"<figure>{image}<figcaption>{escape(figure.caption)}{below}</figcaption></figure>\n"


def _image(picture: Picture, description: str, exact: bool) -> str:
    """An <img> with its data inside; small ones are enlarged with their pixels visible."""
    height, width = picture.shape[:2]
    pixels = ' class="pixels"' if min(height, width) < _PIXELS_VISIBLE_BELOW else ""
    return (
        f'<img{pixels} src="{_data_uri(picture, exact)}" width="{width}" height="{height}" '
        f'alt="{escape(description)}">'
    )


def _data_uri(picture: Picture, exact: bool) -> str:
    """PNG for what must be exact; WebP, far smaller, for drawings."""
    kind, options = ("png", {"optimize": True}) if exact else ("webp", {"quality": 88})
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
