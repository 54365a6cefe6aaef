"""Stage 1 of generation: where the Gaussians of an image start, drawn for a class."""

from gpstoken_jax.generation.layouts.empirical import EmpiricalSampler
from gpstoken_jax.generation.layouts.file import Layouts, LayoutsError, read_layouts, write_layouts
from gpstoken_jax.generation.layouts.loading import open_layouts
from gpstoken_jax.generation.layouts.sampler import LayoutSampler

__all__ = [
    "EmpiricalSampler",
    "LayoutSampler",
    "Layouts",
    "LayoutsError",
    "open_layouts",
    "read_layouts",
    "write_layouts",
]
