"""Splatting in float64 NumPy, values and gradients, straight from the formulas."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Exact:
    """A map [H, W, C] and the gradients of sum(map * cotangent): [L, 5] and [L, C]."""

    image: np.ndarray
    d_geometry: np.ndarray
    d_features: np.ndarray


def grid(size) -> tuple[np.ndarray, np.ndarray]:
    """x and y of all pixels, flat; float32 numbers, as the published implementation rounds them."""
    rows, columns = (
        np.zeros(1) if n == 1 else (2.0 * np.arange(n) / (n - 1) - 1).astype(np.float32)
        for n in size
    )
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return x.ravel().astype(np.float64), y.ravel().astype(np.float64)


def offsets(geometry, size):
    """(x - mu_x, y - mu_y), each [H W, L], in float64."""
    geometry = np.asarray(geometry, np.float64)
    x, y = grid(size)
    return x[:, None] - geometry[:, 3], y[:, None] - geometry[:, 4]


def splat64(geometry, features, size, support, cotangent) -> Exact:
    """Values and gradients for one image; the support box is not differentiated."""
    d_x, d_y = offsets(geometry, size)
    sigma_x, sigma_y, rho, _, _ = np.asarray(geometry, np.float64).T
    features, g = np.asarray(features, np.float64), np.asarray(cotangent, np.float64)
    g = g.reshape(-1, features.shape[-1])
    u, v, o = d_x / sigma_x, d_y / sigma_y, 1 - rho**2
    inside = (np.abs(d_x) <= support * sigma_x) & (np.abs(d_y) <= support * sigma_y)
    exponent = (u * u - 2 * rho * u * v + v * v) / (2 * o)
    weight = np.where(inside, np.exp(-exponent), 0.0)
    w = weight * (g @ features.T)
    by_u, by_v = (rho * v - u) / o, (rho * u - v) / o  # d log(weight) / du, dv
    by_rho = u * v / o - 2 * rho * exponent / o
    terms = [-u * by_u / sigma_x, -v * by_v / sigma_y, by_rho, -by_u / sigma_x, -by_v / sigma_y]
    d_geometry = np.stack([(w * t).sum(axis=0) for t in terms], axis=-1)
    return Exact((weight @ features).reshape(*size, -1), d_geometry, weight.T @ g)


def off_the_edges(geometry, size, support, band=1e-4):
    """Widen tokens a little until no pixel lies within `band` (relative) of an edge of their box.

    There float32 and float64 may disagree whether the pixel is inside: the weight is discontinuous.
    """
    geometry = np.array(geometry, np.float32)
    for _ in range(100):
        close = [
            (np.abs(np.abs(d) / (support * s) - 1) < band).any(axis=0)
            for d, s in zip(offsets(geometry, size), geometry.T[:2], strict=True)
        ]
        if not np.any(close):
            return geometry
        for i in range(2):
            geometry[close[i], i] *= np.float32(1 + 5 * band)
    raise AssertionError("no geometry away from the edges found")
