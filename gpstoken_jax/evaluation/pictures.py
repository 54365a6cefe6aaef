"""Pictures of a report: what it shows of a photo, and the examples that lie beside it as files."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from gpstoken_jax.evaluation.measurement import Outcome
from gpstoken_jax.evaluation.methods import UNFOCUSED, rate_label
from gpstoken_jax.evaluation.results import CellResult, Metrics
from gpstoken_jax.metrics.baselines import SHORT_LABELS
from gpstoken_jax.runtime.outputs import Output
from gpstoken_jax.tokens.visualize import (
    draw_density,
    draw_error,
    draw_features,
    draw_gaussians,
    draw_outline,
    to_uint8,
    token_colours,
)

MAX_ERROR = 0.25

Picture = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    Attributes:
      exact: stored without loss.
      metrics: stand below it.
      compared: the page's slider can show it beside the original.
    """

    caption: str
    picture: Picture
    exact: bool = False
    metrics: Metrics = field(default_factory=dict)
    compared: bool = False


class Photo(NamedTuple):
    """An image on a page.

    Attributes:
      name: of its file.
      figures: the original first.
      metrics: of the evaluated method.
      baseline: name and metrics of what it is compared with.
      tag: reason why it is shown.
    """

    name: str
    figures: Sequence[Figure]
    metrics: Metrics = {}  # noqa: RUF012 - never written to
    baseline: tuple[str, Metrics] | None = None
    tag: str = ""


def draw_photo(
    name: str,
    image: Float[np.ndarray, "h w 3"],
    outcomes: Mapping[str, Outcome],
    *,
    inside: Bool[np.ndarray, "h w"] | None = None,
    maps: bool = True,
) -> Photo:
    """Draws all that a report shows of an image.

    Args:
      name: of the image.
      image: in [-1, 1].
      outcomes: of the methods, the evaluated one first. One without tokens has no drawings of
        Gaussians; one without metrics has no original, and only the image itself is shown.
      inside: a focus, to be outlined in the drawings.
      maps: whether token density and feature map are shown.
    """
    (_, model), *others = outcomes.items()
    if not model.metrics:
        return Photo(name, [Figure("Image", to_uint8(image), True, compared=True)])
    others = dict(others)
    unfocused = others.pop(UNFOCUSED, None)
    baselines = [
        Figure(
            rate_label(n, True) or SHORT_LABELS.get(n, n),
            to_uint8(one.reconstruction),
            True,
            one.metrics,
            True,
        )
        for n, one in others.items()
    ]
    figures = [
        Figure("Original", to_uint8(image), True, compared=True),
        *_draw_tokens(image, model, inside),
        Figure("Reconstruction", to_uint8(model.reconstruction), True, model.metrics, True),
        *baselines[:1],
        Figure("Error", draw_error(image, model.reconstruction, max_error=MAX_ERROR), True),
    ]
    if unfocused is not None:
        text = " without the focus"
        again = to_uint8(unfocused.reconstruction)
        figures += _draw_tokens(image, unfocused, inside, text)
        figures.append(Figure(f"Reconstruction{text}", again, True, unfocused.metrics, True))
    figures += baselines[1:]
    if maps and model.tokens:
        features = model.tokens["feature_map"]
        size = (4 * features.shape[0], 4 * features.shape[1])
        figures.append(Figure("Token density", draw_density(model.tokens["refined"], size)))
        figures.append(Figure("Feature map", draw_features(features[None])[0], exact=True))
    first = (baselines[0].caption, baselines[0].metrics) if baselines else None
    return Photo(name, figures, model.metrics, first)


def _draw_tokens(
    image: Float[np.ndarray, "h w 3"],
    outcome: Outcome,
    inside: Bool[np.ndarray, "h w"] | None,
    text: str = "",
) -> list[Figure]:
    """The Gaussians before and after the encoder, a token in one colour."""
    if not outcome.tokens:
        return []
    colours = token_colours(outcome.tokens["initial"])
    drawn = [
        draw_gaussians(image, outcome.tokens[kind], colours=colours)
        for kind in ("initial", "refined")
    ]
    if inside is not None:
        drawn = [draw_outline(picture, inside) for picture in drawn]
    kinds = (f"Initial Gaussians{text}", f"Refined Gaussians{text}")
    return [Figure(kind, picture) for kind, picture in zip(kinds, drawn, strict=True)]


def write_examples(output: Output, cell: CellResult, photos: Iterable[Photo]) -> list[dict]:
    """Writes originals and reconstructions as PNG files into a cell's directory.

    Returns:
      What the cell's JSON file says of them, with paths relative to it.
    """
    written = []
    for number, photo in enumerate(photos, 1):
        files = {}
        for figure in photo.figures:
            if figure.caption in ("Original", "Reconstruction"):
                file = f"examples/{number}_{photo.tag}_{figure.caption.lower()}.png"
                output.write(cell.file(file), _encode(figure.picture, "png"), durable=False)
                files[figure.caption] = file
        one = {"tag": photo.tag, "name": photo.name, "metrics": dict(photo.metrics)}
        written.append(one | {"files": files})
    return written


def read_examples(output: Output, cell: CellResult) -> list[Photo]:
    """The examples that ``write_examples`` wrote, but for those whose files are gone or damaged."""
    photos = []
    for one in cell.summary["examples"]:
        try:
            figures = [
                Figure(
                    caption, np.asarray(Image.open(output.check(cell.file(file)))), True, {}, True
                )
                for caption, file in one["files"].items()
            ]
        except (OSError, ValueError):
            continue
        photos.append(Photo(one["name"], figures, one["metrics"], tag=one["tag"]))
    return photos


def data_uri(figure: Figure) -> str:
    """PNG for what must be exact; WebP, far smaller, for drawings."""
    kind = "png" if figure.exact else "webp"
    data = base64.b64encode(_encode(figure.picture, kind)).decode("ascii")
    return f"data:image/{kind};base64,{data}"


def _encode(picture: Picture, kind: str) -> bytes:
    options = {"optimize": True} if kind == "png" else {"quality": 88}
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()
