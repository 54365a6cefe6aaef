"""A kernel that is wrong or does not compile is found out and not used."""

import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax import kernels
from gpstoken_jax.kernels import api, self_check, xla


def _pretender(splat):
    """A module that says it serves, with this splat."""
    module = types.ModuleType("pretender")
    module.splat, module.unsupported = splat, lambda platform, dtype: None
    return module


def _wrong(geometry, features, size, support):
    return xla.splat(geometry, features, size, support) * 1.01


def _wrong_gradient(geometry, features, size, support):
    right = xla.splat(geometry, features, size, support)
    return jax.lax.stop_gradient(right)


def _broken(geometry, features, size, support):
    raise RuntimeError("ptxas exploded")


@pytest.fixture
def first(monkeypatch):
    """Puts an implementation called "pallas" with the given function in front."""

    def put(splat):
        monkeypatch.setitem(api.IMPLEMENTATIONS, "pallas", _pretender(splat))

    api._default.cache_clear()
    yield put
    api._default.cache_clear()


@pytest.mark.parametrize(
    ("splat", "message"),
    [
        (_wrong, "the map differs by 1.0e-02"),
        (_wrong_gradient, "the geometry gradient differs"),
        (_broken, "RuntimeError: ptxas exploded"),
    ],
)
def test_a_faulty_kernel_is_left_out_with_one_warning(first, splat, message):
    first(splat)
    tokens = jnp.full((3, 5), 0.3), jnp.ones((3, 2))
    with pytest.warns(RuntimeWarning, match=message) as warned:
        image = jax.jit(lambda g, f: kernels.splat(g, f, (4, 4)))(*tokens)
    assert len(warned) == 1
    assert jax.__version__ in str(warned[0].message) and "cpu" in str(warned[0].message)
    expected = jax.jit(lambda g, f: xla.splat(g[None], f[None], (4, 4), 3.0)[0])(*tokens)
    np.testing.assert_array_equal(image, expected)
    with pytest.raises(NotImplementedError, match=message):
        kernels.splat(*tokens, (4, 4), implementation="pallas")
    assert message in kernels.available()["pallas"]


def test_a_right_kernel_is_used_also_when_first_met_inside_a_trace(first, caplog):
    calls = []

    def right(geometry, features, size, support):
        calls.append(size)
        return xla.splat(geometry, features, size, support)

    first(right)
    tokens = jnp.full((1, 3, 5), 0.3), jnp.ones((1, 3, 2))
    with caplog.at_level(logging.INFO, logger="gpstoken_jax.kernels.api"):
        jax.jit(jax.vmap(lambda g, f: kernels.splat(g, f, (4, 4))))(*tokens)
    assert calls == [self_check.SIZE, (4, 4)]  # the check, then the call itself
    assert "pallas" in caplog.text
    jax.eval_shape(lambda g, f: kernels.splat(g, f, (5, 5)), *tokens)
    assert calls == [self_check.SIZE, (4, 4), (5, 5)]  # checked once
