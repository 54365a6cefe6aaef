"""What the paper reports, to place a measurement; none of it is measured here.

Source: the tables of arXiv 2509.01109 (GPSToken), which has the figures of the other methods too.
"""

from gpstoken_jax.evaluation.report.numbers import format_number, heading
from gpstoken_jax.evaluation.report.table import metrics_table

NOTE = (
    "As published, ImageNet val, 256 x 256 unless the name says otherwise; not measured here. "
    "Another data set, crop or rounding gives other figures."
)
_NAMES = ("psnr", "ssim", "lpips", "rfid", "sfid")
PUBLISHED = {  # tokens, then the metrics above
    "GPSToken-S64": ("64", 22.18, 0.578, 0.111, 1.31, None),
    "GPSToken-M128": ("128", 24.06, 0.657, 0.080, 0.65, None),
    "GPSToken-L256": ("256", 28.81, 0.809, 0.043, 0.22, None),
    "SDXL-VAE": ("32 x 32", 25.55, 0.727, 0.066, 0.73, None),
    "VA-VAE": ("16 x 16", 25.76, 0.742, 0.050, 0.27, None),
    "DC-AE": ("8 x 8", 23.62, 0.644, 0.092, 0.98, None),
    "TiTok-B64": ("64", 17.01, 0.390, 0.263, 1.75, None),
    "TiTok-S128": ("128", 17.66, 0.413, 0.220, 1.73, None),
    "MAETok": ("128", 23.25, 0.626, 0.096, 0.65, None),
    "FlexTok": ("256", 17.69, 0.475, 0.257, 4.02, None),
    "GPSToken-M128, 512 x 512": ("512", 26.74, 0.764, 0.073, 0.367, 1.93),
    "GPSToken-L256, 512 x 512": ("1024", 32.00, 0.887, 0.039, 0.175, 0.699),
    "GPSToken-M128, 1024 x 1024": ("2048", 31.22, 0.873, 0.072, 0.236, 1.24),
    "GPSToken-L256, 1024 x 1024": ("4096", 37.71, 0.955, 0.031, 0.055, 0.276),
}


def published_block() -> str:
    """The published figures as HTML, folded away until they are asked for."""
    rows = [
        ((name, tokens), {n: v for n, v in zip(_NAMES, values, strict=True) if v is not None})
        for name, (tokens, *values) in PUBLISHED.items()
    ]
    alone = [lead for lead, _ in rows]
    table = metrics_table(["Method, as published", "Tokens"], rows, compared=alone)
    return (
        f'<details><summary>Published figures</summary>\n<p class="lead">{NOTE}</p>\n'
        f"{table}</details>\n"
    )


def published_markdown() -> str:
    """The same as Markdown."""
    head = ["method, as published", "tokens", *map(heading, _NAMES)]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name, (tokens, *values) in PUBLISHED.items():
        numbers = [format_number(n, v) for n, v in zip(_NAMES, values, strict=True)]
        lines.append([name, tokens, *numbers])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"## Published figures\n\n{NOTE}\n\n{table}"
