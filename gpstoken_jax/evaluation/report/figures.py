"""The pictures of one photo in a report."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8

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
MAP_NOTE = (
    "The density is how many tokens there are around a place, bright where there are many. The "
    "feature map is what the tokens draw and the decoder reads; its colours are its three "
    "principal components, taken anew in each photo."
)
FOCUS_NOTE = (
    "A focus, outlined in the drawings, asks for tokens in a part of the image. The figures "
    "without it show what the same weights and as many tokens make of the photo if left alone."
)

Picture = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    exact: stored without loss
    metrics: stand below it
    compared: the page's slider can show it beside the original
    """

    caption: str
    picture: Picture
    exact: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    compared: bool = False


@dataclass(frozen=True)
class ReportRow:
    """One photo: its pictures (uint8 [H, W, 3]) and the metrics of model and baseline.

    name: what the reader knows the photo by, usually a file name
    original, reconstruction, baseline: stored without loss
    initial, refined, error: drawings
    metrics, baseline_metrics: per-image values by metric name, see `METRIC_DEFINITIONS`
    baseline_name: what the reader knows the baseline by
    more: further figures, below the others

    A method without tokens has no drawings of Gaussians, there may be no baseline, and of an image
    that has no reconstruction only itself is shown: None.
    """

    name: str
    original: Picture
    initial: Picture | None = None
    refined: Picture | None = None
    reconstruction: Picture | None = None
    baseline: Picture | None = None
    error: Picture | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    baseline_metrics: Mapping[str, float] = field(default_factory=dict)
    baseline_name: str = "Baseline"
    more: tuple[Figure, ...] = ()

    def figures(self) -> list[Figure]:
        """All pictures in the order shown."""
        first = "Image" if self.reconstruction is None else "Original"
        figures = [
            Figure(first, self.original, exact=True, compared=True),
            Figure("Initial Gaussians", self.initial),
            Figure("Refined Gaussians", self.refined),
            Figure("Reconstruction", self.reconstruction, True, self.metrics, compared=True),
            Figure(self.baseline_name, self.baseline, True, self.baseline_metrics, compared=True),
            Figure("Error", self.error, exact=True),
            *self.more,
        ]
        return [figure for figure in figures if figure.picture is not None]


def make_row(
    name: str,
    image: Float[np.ndarray, "h w 3"],
    reconstruction: Float[np.ndarray, "h w 3"],
    baseline: Float[np.ndarray, "h w 3"] | None,
    initial: Float[np.ndarray, "l 5"] | None,
    refined: Float[np.ndarray, "l 5"] | None,
    metrics: Mapping[str, float],
    baseline_metrics: Mapping[str, float],
    *,
    baseline_name: str = "Baseline",
    inside: Bool[np.ndarray, "h w"] | None = None,
    more: Iterable[Figure] = (),
) -> ReportRow:
    """Draw everything the report shows of one photo.

    image, reconstruction, baseline: in [-1, 1]. initial, refined: geometry of the same tokens,
    before and after the encoder; a token has one colour in both drawings. None where there is no
    baseline, or where there are no tokens. inside: a focus, to be
    outlined in the drawings. more: further figures, see `map_figures` and `unfocused_figures`
        (and `MAP_NOTE` and `FOCUS_NOTE`, which explain them to the reader).
    """
    drawn_initial, drawn_refined = None, None
    if initial is not None:
        drawn_initial, drawn_refined = _draw_both(image, initial, refined, inside)
    return ReportRow(
        name=name,
        original=to_uint8(image),
        initial=drawn_initial,
        refined=drawn_refined,
        reconstruction=to_uint8(reconstruction),
        baseline=None if baseline is None else to_uint8(baseline),
        error=draw_error(image, reconstruction, max_error=MAX_ERROR),
        metrics=metrics,
        baseline_metrics=baseline_metrics,
        baseline_name=baseline_name,
        more=tuple(more),
    )


def map_figures(
    refined: Float[np.ndarray, "l 5"], feature_map: Float[np.ndarray, "m n c"]
) -> list[Figure]:
    """Where the tokens are, and the feature map that they draw in false colours."""
    height, width = feature_map.shape[:2]
    return [
        Figure("Token density", draw_density(refined, (4 * height, 4 * width))),
        Figure("Feature map", draw_features(feature_map[None])[0], exact=True),
    ]


def unfocused_figures(
    image: Float[np.ndarray, "h w 3"],
    reconstruction: Float[np.ndarray, "h w 3"],
    initial: Float[np.ndarray, "l 5"],
    refined: Float[np.ndarray, "l 5"],
    metrics: Mapping[str, float],
    inside: Bool[np.ndarray, "h w"],
) -> list[Figure]:
    """What the photo would be without the user's focus, beside the row's own figures."""
    drawings = _draw_both(image, initial, refined, inside)
    return [
        Figure("Initial Gaussians without the focus", drawings[0]),
        Figure("Refined Gaussians without the focus", drawings[1]),
        Figure("Reconstruction without the focus", to_uint8(reconstruction), True, metrics, True),
    ]


def _draw_both(
    image: Float[np.ndarray, "h w 3"],
    initial: Float[np.ndarray, "l 5"],
    refined: Float[np.ndarray, "l 5"],
    inside: Bool[np.ndarray, "h w"] | None,
) -> tuple[Picture, Picture]:
    """The Gaussians before and after the encoder, a token in one colour."""
    colours = token_colours(initial)
    drawn = (draw_gaussians(image, geometry, colours=colours) for geometry in (initial, refined))
    return tuple(drawn if inside is None else (draw_outline(one, inside) for one in drawn))
