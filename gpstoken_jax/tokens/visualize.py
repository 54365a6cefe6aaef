"""Pictures of what the model does: Gaussians over the photo, density, features and errors.

Everything takes and returns plain NumPy arrays: images in [-1, 1] go in, uint8 pictures
`[H, W, 3]` come out, for a log, a report or a notebook. Nothing here keeps plotting state.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageFont

_SUPERSAMPLING = 3
_DENSITY_SPREAD = 1.5  # widens tokens so that an even grid of them comes out nearly flat
_CONTOUR_POINTS = 64
_BACKGROUND = 255


def to_uint8(images: Float[np.ndarray, "*b h w c"]) -> UInt8[np.ndarray, "*b h w c"]:
    """Images in [-1, 1] as 8-bit ones, clipped and rounded to the nearest level."""
    unit = (np.clip(np.asarray(images, np.float32), -1, 1) + 1) / 2
    return np.round(unit * 255).astype(np.uint8)


def gaussian_contours(
    geometry: Float[np.ndarray, "l 5"], num_sigma: float = 1.0
) -> Float[np.ndarray, "l p 2"]:
    """Points (x, y), in the geometry's [-1, 1] coordinates, along each Gaussian's contour.

    The contour is where the Mahalanobis distance is `num_sigma`, so a token is worth
    exp(-num_sigma^2 / 2) of its peak there; it is an ellipse, tilted where rho is not 0.
    """
    geometry = np.asarray(geometry, np.float64)
    sigma_x, sigma_y, rho, mu_x, mu_y = np.moveaxis(geometry[:, :, None], 1, 0)
    angle = np.linspace(0, 2 * np.pi, _CONTOUR_POINTS, endpoint=False)
    # The Cholesky factor of the covariance maps the unit circle to the one-sigma ellipse.
    along, across = np.cos(angle), np.sin(angle)
    tilted = rho * along + np.sqrt(np.maximum(1 - rho**2, 0)) * across
    return np.stack(
        [mu_x + num_sigma * sigma_x * along, mu_y + num_sigma * sigma_y * tilted], axis=-1
    )


def token_colours(geometry: Float[np.ndarray, "l 5"]) -> UInt8[np.ndarray, "l 3"]:
    """A colour a token by the area it covers: warm for the smallest, cool for the largest."""
    sigma_x, sigma_y, rho = np.asarray(geometry, np.float64)[:, :3].T
    log_area = np.log(np.maximum(sigma_x * sigma_y * np.sqrt(np.maximum(1 - rho**2, 0)), 1e-12))
    if log_area.size == 0:
        return np.zeros((0, 3), np.uint8)
    smallness = (log_area.max() - log_area) / (np.ptp(log_area) or 1.0)
    return _colour_map("turbo", 0.16 + 0.66 * smallness)


def draw_gaussians(
    image: Float[np.ndarray, "h w 3"],
    geometry: Float[np.ndarray, "l 5"],
    *,
    num_sigma: float = 1.0,
    colours: UInt8[np.ndarray, "l 3"] | None = None,
    min_side: int = 384,
    fade: float = 0.5,
    line_width: float = 1.5,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw every token's `num_sigma` contour as an ellipse over the image it describes.

    image: in [-1, 1], enlarged by whole pixels until its short side is at least `min_side`.
    geometry: (sigma_x, sigma_y, rho, mu_x, mu_y); -1 and 1 are the centres of the outer pixels.
    colours: one a token; None colours by area. To follow tokens from their initial to their refined
        place, give both drawings the same ones.
    fade: how far the photo gives up colour and contrast to the lines, 0 to 1.
    line_width: in pixels of the result.
    Raises ValueError for a geometry that is not [L, 5] or not finite.
    """
    geometry = np.asarray(geometry, np.float32)
    if geometry.ndim != 2 or geometry.shape[-1] != 5 or not np.isfinite(geometry).all():
        raise ValueError(f"Gaussians to draw must be finite [L, 5], not {geometry.shape}.")
    height, width = np.shape(image)[:2]
    scale = max(1, -(-min_side // min(height, width)))
    faded = to_uint8(_fade(np.asarray(image, np.float32), fade))
    canvas = Image.fromarray(faded.repeat(scale, 0).repeat(scale, 1))
    colours = token_colours(geometry) if colours is None else np.asarray(colours)
    order = np.argsort(-geometry[:, 0] * geometry[:, 1], kind="stable")  # small ones on top
    points = _to_canvas(gaussian_contours(geometry, num_sigma), (width, height), scale)
    lines = _draw_contours(canvas.size, points[order], colours[order], line_width)
    canvas.paste(lines, mask=lines.getchannel("A"))
    return np.asarray(canvas)


def _fade(image: np.ndarray, fade: float) -> np.ndarray:
    """Take away colour and half as much contrast, towards a dark grey that sets off the lines."""
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    dull = image + fade * (grey[..., None] - image)
    return dull + fade / 2 * (-0.3 - dull)


def _to_canvas(points: np.ndarray, size: tuple[int, int], scale: int) -> np.ndarray:
    """Normalised coordinates to pixels of the supersampled canvas."""
    pixels = (points + 1) / 2 * (np.array(size) - 1)
    return (pixels + 0.5) * scale * _SUPERSAMPLING - 0.5


def _draw_contours(
    size: tuple[int, int], points: np.ndarray, colours: np.ndarray, line_width: float
) -> Image.Image:
    """Closed, antialiased lines with a thin dark edge on a transparent canvas, in RGBA."""
    large = Image.new("RGBA", tuple(side * _SUPERSAMPLING for side in size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(large)
    wide, thin = (max(1, round(_SUPERSAMPLING * w)) for w in (line_width + 1.0, line_width))
    for contour, colour in zip(points, colours, strict=True):
        closed = [*map(tuple, contour), *map(tuple, contour[:2])]  # the last joint too
        draw.line(closed, fill=(0, 0, 0, 150), width=wide, joint="curve")
        draw.line(closed, fill=(*map(int, colour), 255), width=thin, joint="curve")
    return large.convert("RGBa").reduce(_SUPERSAMPLING).convert("RGBA")


def token_density(
    geometry: Float[np.ndarray, "l 5"], size: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """Density of tokens around each pixel, as a share of an even spread.

    Every token spreads a weight of 1 over the pixels, by its own Gaussian made half as wide again.
    1 everywhere would be an even spread, 3 is three times as many tokens; the mean is 1.
    """
    height, width = size
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    density = np.zeros(size)
    for sigma_x, sigma_y, rho, mu_x, mu_y in np.asarray(geometry, np.float64):
        # A Gaussian narrower than a pixel would fall between the pixels.
        dx = (x - mu_x) / max(_DENSITY_SPREAD * sigma_x, 1 / width)
        dy = (y - mu_y) / max(_DENSITY_SPREAD * sigma_y, 1 / height)
        decay = 2 * max(1 - rho**2, 1e-3)
        weight = np.exp(-(dx**2 - 2 * rho * dx * dy + dy**2) / decay)
        density += weight / max(weight.sum(), 1e-12)
    return density * (height * width / max(len(geometry), 1))


def draw_density(
    geometry: Float[np.ndarray, "l 5"], size: tuple[int, int], *, max_density: float | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Token density as a picture: dark where there are few tokens, bright where many.

    max_density: what is drawn brightest; None takes the highest density of this picture.
    """
    density = token_density(geometry, size)
    return _colour_map("magma", density / (max_density or max(density.max(), 1e-12)))


def draw_features(maps: Float[np.ndarray, "b h w c"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Feature maps in false colours: their three principal components as red, green and blue.

    The components are those of the whole batch, so equal colours mean equal features across it.
    Fewer than three channels leave the missing colours at mid-grey.
    """
    maps = np.asarray(maps, np.float64)
    flat = maps.reshape(-1, maps.shape[-1])
    centred = flat - flat.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :3]
    axes = axes * np.where(axes[np.abs(axes).argmax(0), range(axes.shape[1])] < 0, -1, 1)
    parts = np.zeros((len(flat), 3))
    parts[:, : axes.shape[1]] = centred @ axes
    reach = np.quantile(np.abs(parts), 0.98, axis=0)
    reach = np.maximum(reach, 1e-6 * reach.max() + 1e-12)  # no noise where nothing varies
    return to_uint8((parts / reach).reshape(*maps.shape[:-1], 3))


def draw_error(
    image: Float[np.ndarray, "*b h w 3"],
    reconstruction: Float[np.ndarray, "*b h w 3"],
    *,
    max_error: float = 0.25,
) -> UInt8[np.ndarray, "*b h w 3"]:
    """Absolute difference, mean over colours, from black (none) to pale yellow (`max_error`).

    max_error: on the scale where the images span 0 to 1; the same for every picture, so that
    pictures can be compared.
    """
    pair = (np.clip(np.asarray(x, np.float32), -1, 1) for x in (image, reconstruction))
    error = np.abs(np.subtract(*pair)).mean(-1) / 2
    return _colour_map("inferno", error / max_error)


def draw_outline(
    image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"],
    inside: Bool[np.ndarray, "m n"],
    *,
    line_width: int = 2,
) -> UInt8[np.ndarray, "h w 3"]:
    """A line, white beside black, around the pixels of a mask, just inside it.

    image: a uint8 picture or a float image in [-1, 1]; may be larger than the mask, which is then
        enlarged to it.
    """
    picture = _as_picture(image).copy()
    mask = Image.fromarray(np.asarray(inside, np.uint8) * 255)
    mask = mask.resize((picture.shape[1], picture.shape[0]), Image.Resampling.NEAREST)
    mask = np.pad(np.asarray(mask) > 0, 1)  # a line along the picture's edge too
    for colour, width in ((0, 2 * line_width), (255, line_width)):
        inner = Image.fromarray(mask).convert("L").filter(ImageFilter.MinFilter(2 * width + 1))
        edge = mask & ~(np.asarray(inner) > 0)
        picture[edge[1:-1, 1:-1]] = colour
    return picture


def image_grid(
    rows: Sequence[Sequence[UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]]],
    *,
    gap: int = 4,
    titles: Sequence[str] = (),
) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of pictures as one picture on white; smaller ones are enlarged to the largest.

    rows: uint8 pictures or float images in [-1, 1], mixed as one likes; rows may differ in length.
    titles: one a column, written above the first row.
    Raises ValueError when there are no pictures.
    """
    rows = [[_as_picture(picture) for picture in row] for row in rows]
    shapes = [picture.shape[:2] for row in rows for picture in row]
    if not shapes:
        raise ValueError("A grid needs at least one picture.")
    height, width = np.max(shapes, axis=0)
    columns = max(len(row) for row in rows)
    shape = len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3
    grid = np.full(shape, _BACKGROUND, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            grid[top : top + height, left : left + width] = _fit(picture, height, width)
    return np.concatenate([_title_strip(titles, width, gap, shape[1]), grid]) if titles else grid


def _title_strip(titles: Sequence[str], width: int, gap: int, total: int) -> np.ndarray:
    """Titles centred above columns, as large as fits the longest of them."""
    size = max(8, min(20, width // 12))
    font = ImageFont.load_default(size)
    longest = max(font.getlength(title) for title in titles)
    if longest > width:
        font = ImageFont.load_default(max(6, int(size * width / longest)))
    strip = Image.new("RGB", (total, 2 * size), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(strip)
    for i, title in enumerate(titles):
        draw.text(
            (i * (width + gap) + width / 2, size), title, fill=(40, 40, 40), font=font, anchor="mm"
        )
    return np.asarray(strip)


def _as_picture(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    image = np.asarray(image)
    return image if image.dtype == np.uint8 else to_uint8(image)


def _fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarge to fill as much of the cell as the aspect allows, centred on the background."""
    factor = min(height / picture.shape[0], width / picture.shape[1])
    size = round(picture.shape[1] * factor), round(picture.shape[0] * factor)
    cell = Image.new("RGB", (width, height), (_BACKGROUND,) * 3)
    enlarged = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
    cell.paste(enlarged, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(cell)


def _colour_map(name: str, values: np.ndarray) -> UInt8[np.ndarray, "*shape 3"]:
    """Values in 0..1 (clipped) through one of Matplotlib's colour maps."""
    return matplotlib.colormaps[name](np.clip(values, 0, 1), bytes=True)[..., :3]
