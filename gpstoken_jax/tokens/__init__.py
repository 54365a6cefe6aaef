"""Tokens on disk: shards of safetensors files, written by gpstoken encode, read at random."""

from gpstoken_jax.tokens.dataset import TokenDataset, TokenExample, open_tokens
from gpstoken_jax.tokens.format import STORAGE, TokensError
from gpstoken_jax.tokens.writer import TokenWriter

__all__ = ["STORAGE", "TokenDataset", "TokenExample", "TokenWriter", "TokensError", "open_tokens"]
