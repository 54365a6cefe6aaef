"""Partition: an image cut into regions, smaller where there is more texture."""

from typing import Any

__all__ = ["partition_images"]


def __getattr__(name: str) -> Any:
    """Imports the function at its first use: checks of configs need `regions` and no JAX."""
    if name in __all__:
        from gpstoken_jax.partition import images

        return getattr(images, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
