"""A page where one takes hold of an image's Gaussians, and the small server below it."""

from gpstoken_jax.viewer.access import Access
from gpstoken_jax.viewer.app import create_app
from gpstoken_jax.viewer.engine import Engine

__all__ = ["Access", "Engine", "create_app"]
