"""The tiled XLA implementation passes the suite; its memory is not tokens x pixels."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from gpstoken_jax import kernels
from gpstoken_jax.kernels import xla
from tests.kernels.suite import SplatSuite, random_tokens


class TestXla(SplatSuite):
    implementation = "xla"


@pytest.fixture
def in_groups(monkeypatch):
    """Five tiles or blocks a step, as on an accelerator; the last step is partly empty."""
    monkeypatch.setattr(xla, "_group_size", lambda items, pixels: min(items, 5))
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.usefixtures("in_groups")
def test_several_tiles_at_once_give_the_same():
    size = (40, 50)
    geometry, features = (a[None] for a in random_tokens(1, 200, 4, size=size))
    draw = functools.partial(kernels.splat, size=size)

    def gradients(implementation):
        loss = lambda g, f: (draw(g, f, implementation=implementation) ** 2).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(geometry, features)

    actual, expected = jax.tree.leaves(gradients("xla")), jax.tree.leaves(gradients("reference"))
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(np.abs(b).max()))


def _export(size, platform: str) -> export.Exported:
    """`splat` for any number of images and of tokens with 3 features."""
    lead = export.symbolic_shape("b, l")
    arguments = (jax.ShapeDtypeStruct((*lead, n), jnp.float32) for n in (5, 3))
    draw = jax.jit(functools.partial(kernels.splat, size=size, implementation="xla"))
    with jax.default_device("cpu"):
        return export.export(draw, platforms=[platform])(*arguments)


@pytest.mark.parametrize(("platform", "at_once"), [("cpu", 1), ("cuda", 16)])
def test_an_open_batch_is_drawn_an_image_at_a_time_on_an_accelerator(platform, at_once):
    text = _export((64, 64), platform).mlir_module()
    tiles = set(re.findall(r"tensor<(\d+)x256x3xf32>", text))
    assert tiles == {str(at_once)}


def test_the_form_of_an_accelerator_draws_the_same(monkeypatch):
    size = (40, 50)
    both = [random_tokens(seed, 70, 3, size=size) for seed in (1, 2)]
    geometry, features = map(np.stack, zip(*both, strict=True))
    monkeypatch.setattr(xla.lax, "platform_dependent", lambda cpu, default: default())
    drawn = _export(size, "cpu").call(geometry, features)
    expected = kernels.splat(geometry, features, size, implementation="reference")
    np.testing.assert_allclose(drawn, expected, rtol=1e-4, atol=1e-5)


def _temporary_bytes(size, tokens) -> int:
    geometry = jax.ShapeDtypeStruct((1, tokens, 5), jnp.float32)
    features = jax.ShapeDtypeStruct((1, tokens, 8), jnp.float32)
    loss = lambda g, f: (kernels.splat(g, f, size, implementation="xla") ** 2).sum()  # noqa: E731
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(geometry, features).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_tokens_times_pixels():
    few, many = _temporary_bytes((128, 128), 256), _temporary_bytes((128, 128), 2048)
    one_weight_each = 4 * 128 * 128 * (2048 - 256)
    assert many - few < one_weight_each / 50


@pytest.mark.parametrize(
    ("tokens", "size", "tiled"),
    [
        (5, (30, 20), False),  # a block is larger than all tokens
        (20, (64, 64), False),
        (5, (3000, 200), True),  # too many pairs to hold
        (64, (32, 32), True),
        (256, (16, 16), True),
        (64, (64, 64), True),
        (256, (64, 64), True),
        (4096, (256, 256), True),
    ],
)
def test_tiles_only_where_they_take_no_more_pairs_than_there_are(tokens, size, tiled):
    assert xla.tiles_save_work(tokens, size) is tiled


# XLA's CPU compiler (JAX 0.12) once refused these: a single tile with several token blocks.
@pytest.mark.parametrize("size", [(16, 16), (8, 8)])
def test_a_single_tile_with_several_blocks_compiles(size):
    geometry, features = jnp.full((3, 40, 5), 0.3), jnp.ones((3, 40, 2))
    loss = lambda g: kernels.splat(g, features, size, implementation="xla").sum()  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(loss))(geometry)
    assert float(value) > 0 and (np.asarray(gradient) != 0).all()
