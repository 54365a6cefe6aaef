"""Edits of tokens: geometry and texture are separate values, so each can be changed alone.

Tokens are ``[..., L, 5 + C]`` with (sigma_x, sigma_y, rho, mu_x, mu_y) in front. Every function
returns new tokens; ``where`` ``[..., L]`` says which ones change, None is all. Places and distances
are in the tokens' coordinates: -1 is the centre of the first pixel and 1 that of the last, x to the
right and y down.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Tokens = Float[Array, "*b l d"]
Where = Bool[Array, "*#b l"] | None
Point = tuple[float, float]


def select_box(tokens: Tokens, box: tuple[float, float, float, float]) -> Bool[Array, "*b l"]:
    """The tokens whose centre is in a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = box
    x, y = tokens[..., 3], tokens[..., 4]
    return (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)


def move(tokens: Tokens, offset: Point, where: Where = None) -> Tokens:
    """Moves tokens by (x, y)."""
    tokens = jnp.asarray(tokens)
    moved = tokens.at[..., 3:5].add(jnp.asarray(offset, tokens.dtype))
    return _choose(where, moved, tokens)


def scale(
    tokens: Tokens,
    factor: float | tuple[float, float],
    where: Where = None,
    *,
    about: Point | None = None,
) -> Tokens:
    """Widens tokens by a factor, or by one a direction (x, y); rho does not change.

    about: a place from which the tokens move away by the same factor, so that what they show is
      enlarged as a whole; None leaves every token where it is.

    Raises:
      ValueError: a factor that is not positive.
    """
    factor = np.broadcast_to(np.asarray(factor, np.float32), (2,))
    if not (factor > 0).all():
        raise ValueError(f"tokens can be scaled by positive factors, not by {factor.tolist()}")
    tokens = jnp.asarray(tokens)
    scaled = tokens.at[..., :2].multiply(factor)
    if about is not None:
        centre = jnp.asarray(about, tokens.dtype)
        scaled = scaled.at[..., 3:5].set(centre + (tokens[..., 3:5] - centre) * factor)
    return _choose(where, scaled, tokens)


def rotate(
    tokens: Tokens,
    degrees: float,
    where: Where = None,
    *,
    about: Point | None = None,
    size: tuple[int, int] | None = None,
) -> Tokens:
    """Turns tokens clockwise, as the picture is seen.

    Args:
      tokens: to be turned.
      degrees: the angle.
      where: which tokens; None is all.
      about: a place around which the tokens move too; None turns each about its own centre.
      size: (H, W) of the image in pixels. -1 to 1 is the width and the height alike, so in an image
        that is not square a turn must know both. None is a square.
    """
    tokens = jnp.asarray(tokens)
    height, width = size or (2, 2)
    aspect = (width - 1) / (height - 1)
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # In pixels the matrix is ((cos, -sin), (sin, cos)): y points down, so this is clockwise.
    matrix = jnp.array([[cos, -sin / aspect], [sin * aspect, cos]], tokens.dtype)
    covariance = matrix @ to_covariance(tokens[..., :5]) @ matrix.T
    turned = tokens.at[..., :3].set(from_covariance(covariance))
    if about is not None:
        centre = jnp.asarray(about, tokens.dtype)
        turned = turned.at[..., 3:5].set(centre + (tokens[..., 3:5] - centre) @ matrix.T)
    return _choose(where, turned, tokens)


def drop(tokens: Tokens, where: Where = None) -> Tokens:
    """Makes tokens draw nothing, by zero features; their number stays, so shapes do."""
    return _choose(where, jnp.asarray(tokens).at[..., 5:].set(0), tokens)


def swap_features(first: Tokens, second: Tokens, where: Where = None) -> tuple[Tokens, Tokens]:
    """Exchanges texture between two images, token by token; geometry stays where it is.

    Tokens correspond by their index. Two images encoded with one layout (the geometry and boxes of
    one of them) have tokens in the same places.

    Raises:
      ValueError: if the images have different numbers of tokens.
    """
    _check_pair(first, second)
    swapped = (
        jnp.concatenate([mine[..., :5], other[..., 5:]], axis=-1)
        for mine, other in ((first, second), (second, first))
    )
    return tuple(
        _choose(where, new, old) for new, old in zip(swapped, (first, second), strict=True)
    )


def interpolate(
    first: Tokens, second: Tokens, amount: float, *, geometry: bool = True, features: bool = True
) -> Tokens:
    """Tokens on the way from the first image (amount 0) to the second (amount 1).

    Features, centres and covariances change linearly, so every step is a valid Gaussian. With
    ``geometry`` or ``features`` False, that part stays the first image's. Tokens correspond by
    their index, see ``swap_features``.

    Raises:
      ValueError: if the images have different numbers of tokens.
    """
    _check_pair(first, second)
    between = first + amount * (second - first)
    start, end = to_covariance(first[..., :5]), to_covariance(second[..., :5])
    shape = from_covariance(start + amount * (end - start))
    moved = jnp.concatenate([shape, between[..., 3:5]], axis=-1) if geometry else first[..., :5]
    texture = between[..., 5:] if features else first[..., 5:]
    return jnp.concatenate([moved, texture], axis=-1)


def to_covariance(geometry: Float[Array, "*l 5"]) -> Float[Array, "*l 2 2"]:
    """Covariance matrices, x before y, of Gaussians."""
    sigma_x, sigma_y, rho = jnp.moveaxis(geometry[..., :3], -1, 0)
    cross = rho * sigma_x * sigma_y
    rows = jnp.stack([sigma_x**2, cross], -1), jnp.stack([cross, sigma_y**2], -1)
    return jnp.stack(rows, axis=-2)


def from_covariance(covariance: Float[Array, "*l 2 2"]) -> Float[Array, "*l 3"]:
    """(sigma_x, sigma_y, rho) of covariance matrices; rho is 0 where a sigma is 0."""
    sigma_x, sigma_y = (jnp.sqrt(jnp.maximum(covariance[..., i, i], 0)) for i in (0, 1))
    product = sigma_x * sigma_y
    rho = covariance[..., 0, 1] / jnp.where(product > 0, product, 1)
    return jnp.stack([sigma_x, sigma_y, jnp.clip(rho, -1, 1)], axis=-1)


def _choose(where: Where, new: Tokens, old: Tokens) -> Tokens:
    return new if where is None else jnp.where(jnp.asarray(where)[..., None], new, old)


def _check_pair(first: Tokens, second: Tokens) -> None:
    if first.shape[-2:] != second.shape[-2:]:
        raise ValueError(
            f"both images need tokens of one shape, not {first.shape} and {second.shape}; "
            "encode the second with the geometry and boxes of the first"
        )
