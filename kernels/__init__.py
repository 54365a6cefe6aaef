"""Gaussian splatting of token features onto a map: one operation in several implementations."""

from gpstoken_jax.kernels.api import available, splat

__all__ = ["available", "splat"]
