"""Choice of the implementation, and refusals."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax import kernels
from gpstoken_jax.kernels import api


def _tokens(shape=(4,), channels=2):
    return jnp.full((*shape, 5), 0.3), jnp.ones((*shape, channels))


@pytest.fixture
def ran(monkeypatch):
    """Names of the implementations whose function was called."""
    called = []

    def spy(name, module):
        original = module.splat

        def splat(*arguments):
            called.append(name)
            return original(*arguments)

        return splat

    for name, module in api.IMPLEMENTATIONS.items():
        monkeypatch.setattr(module, "splat", spy(name, module))
    return called


@pytest.mark.parametrize("name", ["reference", "xla"])
def test_the_named_implementation_runs(ran, name):
    kernels.splat(*_tokens(), (4, 4), implementation=name)
    assert ran == [name]


def test_by_default_the_first_that_can_serve_runs_and_is_logged_once(ran, caplog):
    api._default.cache_clear()
    first = next(name for name, reason in kernels.available().items() if reason is None)
    with caplog.at_level(logging.INFO, logger="gpstoken_jax.kernels.api"):
        kernels.splat(*_tokens(), (4, 4))
        kernels.splat(*_tokens(), (4, 4))
    assert ran == [first, first]
    assert [first in record.getMessage() for record in caplog.records] == [True]


def test_available_names_every_implementation():
    available = kernels.available()
    assert set(available) == set(api.IMPLEMENTATIONS)
    assert available["xla"] is None and available["reference"] is None
    assert all(reason is None or len(reason) > 10 for reason in available.values())


def test_a_named_implementation_that_cannot_serve_says_why(monkeypatch):
    monkeypatch.setattr(api.xla, "unsupported", lambda platform, dtype: "it rains")
    with pytest.raises(NotImplementedError, match=r"xla.*it rains"):
        kernels.splat(*_tokens(), (4, 4), implementation="xla")


def test_an_unknown_implementation_is_named():
    with pytest.raises(ValueError, match="'magic'"):
        kernels.splat(*_tokens(), (4, 4), implementation="magic")


@pytest.mark.parametrize(
    ("geometry", "features", "size", "support", "match"),
    [
        ((4, 4), (4, 2), (4, 4), 3.0, r"geometry must be \[..., L, 5\]"),
        ((5,), (2,), (4, 4), 3.0, r"geometry must be \[..., L, 5\]"),
        ((4, 5), (3, 2), (4, 4), 3.0, "must agree"),
        ((2, 4, 5), (4, 2), (4, 4), 3.0, "must agree"),
        ((4, 5), (4, 2), (0, 4), 3.0, "size"),
        ((4, 5), (4, 2), (4, 4), 0.0, "support"),
        ((4, 5), (4, 2), (4, 4), float("nan"), "support"),
    ],
)
def test_what_does_not_fit_is_refused(geometry, features, size, support, match):
    with pytest.raises(ValueError, match=match):
        kernels.splat(jnp.ones(geometry), jnp.ones(features), size, support=support)


def test_an_empty_batch_gives_an_empty_map():
    assert kernels.splat(*_tokens((0, 4)), (3, 5)).shape == (0, 3, 5, 2)


def test_saturated_geometry_has_no_gradient_and_the_rest_has_all():
    geometry = jnp.array([[1e-13, 0.5, 1.0, 0.0, 0.1], [0.5, 0.4, 0.2, 0.1, 0.2]])
    image = lambda g: kernels.splat(g, jnp.ones((2, 1)), (5, 5))[1:, 1:].sum()  # noqa: E731
    gradient = np.asarray(jax.grad(image)(geometry))
    assert gradient[0, 0] == 0 and gradient[0, 2] == 0
    assert (gradient[1] != 0).all()
