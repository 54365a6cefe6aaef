"""GPSToken: images as Gaussian tokens, in JAX/Flax (arXiv 2509.01109)."""

__version__ = "0.2.0"
