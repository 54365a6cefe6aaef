"""GPSToken: images as Gaussian tokens, in JAX/Flax (arXiv 2509.01109).

from gpstoken_jax import Tokenizer
tokenizer = Tokenizer.from_pretrained("runs/mine")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpstoken_jax.generator import Generator as Generator
    from gpstoken_jax.tokenizer import Tokenizer as Tokenizer
    from gpstoken_jax.tokenizer import Tokens as Tokens

__version__ = "0.2.0"
__all__ = ["Generator", "Tokenizer", "Tokens"]
_HOMES = {"Generator": "generator", "Tokenizer": "tokenizer", "Tokens": "tokenizer"}


def __getattr__(name: str) -> Any:
    """Imports the objects when they are asked for: JAX takes a second that --help need not wait."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"gpstoken_jax.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
