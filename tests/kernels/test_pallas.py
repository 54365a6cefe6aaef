"""The Pallas implementation passes the suite on a GPU; and what can be told of it without one.

Without a GPU its compiled kernels run in `tests/ptx_emulator` (`make kernel-check`): Mosaic's
interpreter does not know the instructions that they are written in.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.kernels import pallas
from tests.kernels.suite import SplatSuite

in_this_jax = pytest.mark.skipif(
    pallas.missing_in_jax() is not None, reason=str(pallas.missing_in_jax())
)


@pytest.mark.skipif(
    jax.default_backend() != "gpu",
    reason="no GPU here: `make kernel-check` runs the compiled kernels in an emulator",
)
class TestPallas(SplatSuite):
    implementation = "pallas"
    precision = 5.0  # three bfloat16 products, not float32


def test_what_it_cannot_serve_is_named():
    assert "float32 or bfloat16" in pallas.unsupported("gpu", "float16")
    assert "the device is a cpu" in pallas.unsupported("cpu", "float32")


def test_a_jax_without_the_private_parts_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpstoken_jax.kernels.mosaic_words", None)
    pallas.missing_in_jax.cache_clear()
    try:
        assert (
            "lacks a part" in pallas.missing_in_jax() or "it needs JAX" in pallas.missing_in_jax()
        )
    finally:
        pallas.missing_in_jax.cache_clear()


@in_this_jax
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (17, 1000), (4096, 4096)])
@pytest.mark.parametrize(("batch", "channels"), [(1, 3), (70_000, 40), (16, 32)])
def test_the_grid_has_a_place_for_every_tile_and_stays_within_limits(size, batch, channels):
    from gpstoken_jax.kernels.mosaic_tiles import TILE, Problem

    problem = Problem(batch, 256, channels, *size, 3.0, False, 0)
    tiles = batch * math.ceil(channels / problem.chunk) * math.prod(-(-n // TILE) for n in size)
    assert tiles <= 4 * problem.grid
    assert problem.grid <= 4 * tiles


def test_a_batch_too_large_for_int32_indices_goes_in_pieces(monkeypatch):
    called = []

    def double(a, b):
        called.append(len(a))
        return 2 * a, b

    arrays = jnp.arange(30.0).reshape(5, 6), jnp.ones((5, 6, 3))
    one = pallas._largest_index(1, 6, 3, (4, 4))
    for limit, pieces in ((5 * one, [5]), (2 * one, [2, 2, 1]), (one, [1] * 5)):
        called.clear()
        monkeypatch.setattr(pallas, "LARGEST_ARRAY", limit)
        doubled, same = pallas._in_pieces(double, arrays, 3, (4, 4))
        assert called == pieces
        np.testing.assert_array_equal(doubled, 2 * arrays[0])
        np.testing.assert_array_equal(same, arrays[1])
    monkeypatch.setattr(pallas, "LARGEST_ARRAY", one - 1)
    with pytest.raises(NotImplementedError, match="implementation='xla'"):
        pallas._in_pieces(double, arrays, 3, (4, 4))
