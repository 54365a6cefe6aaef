"""Edits do to Gaussians what their names say, undo each other, and leave the rest alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpstoken_jax import kernels
from gpstoken_jax.tokens import editing

SIZE = (40, 64)
angles = st.floats(-360, 360)
factors = st.floats(0.1, 10)
points = st.tuples(st.floats(-1, 1), st.floats(-1, 1))
properties = settings(deadline=None, max_examples=15, derandomize=True)


def _tokens(seed=0, shape=(2, 6)):
    rng = np.random.default_rng(seed)
    geometry = [
        rng.uniform(0.05, 0.3, (*shape, 2)),
        rng.uniform(-0.9, 0.9, (*shape, 1)),
        rng.uniform(-1, 1, (*shape, 2)),
    ]
    return np.concatenate([*geometry, rng.normal(size=(*shape, 3))], -1).astype(np.float32)


@properties
@given(angles, points, st.booleans())
def test_turning_back_is_no_turn(degrees, about, in_place):
    tokens, about = _tokens(), None if in_place else about
    there = editing.rotate(tokens, degrees, about=about, size=SIZE)
    back = editing.rotate(there, -degrees, about=about, size=SIZE)
    np.testing.assert_allclose(back, tokens, atol=2e-4)


@properties
@given(angles, angles)
def test_turns_add_up(first, second):
    twice = editing.rotate(editing.rotate(_tokens(), first, size=SIZE), second, size=SIZE)
    np.testing.assert_allclose(
        twice, editing.rotate(_tokens(), first + second, size=SIZE), atol=2e-4
    )


@properties
@given(angles)
def test_a_turn_keeps_area_and_shape_in_pixels(degrees):
    """The covariance in pixels keeps its eigenvalues."""

    def widths(tokens):
        pixels = np.diag([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2])
        covariance = pixels @ np.asarray(editing.to_covariance(tokens[..., :5])) @ pixels
        return np.sqrt(np.linalg.eigvalsh(covariance))

    turned = editing.rotate(_tokens(), degrees, size=SIZE)
    np.testing.assert_allclose(widths(turned), widths(_tokens()), rtol=2e-3)


def test_a_quarter_turn_of_what_is_drawn():
    """Clockwise: what was at the top is at the right, in an image that is not square."""
    token = np.array([[0.3, 0.1, 0.5, -0.2, -0.1, 1.0]], np.float32)
    about = (-0.2, -0.1)
    turned = editing.rotate(token, 90, about=about, size=(33, 65))
    np.testing.assert_allclose(turned[0, :3], [0.1 / 2, 0.3 * 2, -0.5], atol=1e-6)
    np.testing.assert_allclose(turned[0, 3:5], about, atol=1e-6)
    above = np.array([[0.1, 0.1, 0, 0.0, -0.5, 1.0]], np.float32)
    np.testing.assert_allclose(
        editing.rotate(above, 90, about=(0, 0), size=(33, 65))[0, 3:5], [0.25, 0], atol=1e-6
    )


def test_a_turned_picture_is_the_picture_turned():
    """Square, around the middle, a quarter: the drawn map turns pixel by pixel."""
    tokens = _tokens(3, (8,))
    tokens[:, :2] *= 0.5  # the support is a box: inside it, and none of it cut off
    tokens[:, 3:5] *= 0.5
    drawn, turned = (
        np.asarray(kernels.splat(t[:, :5], t[:, 5:], (33, 33), support=8.0))
        for t in (jnp.asarray(tokens), editing.rotate(tokens, 90, about=(0, 0)))
    )
    np.testing.assert_allclose(turned, np.rot90(drawn, -1), atol=1e-4)


@properties
@given(factors, factors, points)
def test_scaling_keeps_rho_and_is_undone(x, y, about):
    scaled = editing.scale(_tokens(), (x, y), about=about)
    np.testing.assert_array_equal(scaled[..., 2], _tokens()[..., 2])
    np.testing.assert_allclose(scaled[..., :2] / _tokens()[..., :2], [[[x, y]] * 6] * 2, rtol=1e-5)
    np.testing.assert_allclose(
        editing.scale(scaled, (1 / x, 1 / y), about=about), _tokens(), atol=1e-5
    )
    np.testing.assert_array_equal(editing.scale(_tokens(), x)[..., 3:], _tokens()[..., 3:])


@properties
@given(points)
def test_moving_is_undone_and_moves_only_centres(offset):
    moved = editing.move(_tokens(), offset)
    np.testing.assert_array_equal(
        moved[..., [0, 1, 2, 5, 6, 7]], _tokens()[..., [0, 1, 2, 5, 6, 7]]
    )
    back = editing.move(moved, (-offset[0], -offset[1]))
    np.testing.assert_allclose(back, _tokens(), atol=1e-6)


@pytest.mark.parametrize(
    "edit",
    [
        lambda tokens, where: editing.move(tokens, (0.1, 0.2), where),
        lambda tokens, where: editing.scale(tokens, 2, where, about=(0, 0)),
        lambda tokens, where: editing.rotate(tokens, 30, where, about=(0, 0)),
        editing.drop,
        lambda tokens, where: editing.swap_features(tokens, _tokens(1), where)[0],
    ],
)
def test_only_what_is_chosen_changes(edit):
    tokens = _tokens()
    where = editing.select_box(tokens, (-1, -1, 0.2, 1))
    assert where.any() and not where.all()
    edited = np.asarray(edit(tokens, where))
    np.testing.assert_array_equal(edited[~where], tokens[~where])
    assert (edited[where] != tokens[where]).any(-1).all()
    np.testing.assert_array_equal(edited, jax.jit(edit)(tokens, where))


def test_selection_is_by_centre():
    tokens = np.zeros((3, 8), np.float32)
    tokens[:, 3:5] = [(0.5, 0.5), (0.5, -0.5), (0.9, 0.5)]
    np.testing.assert_array_equal(
        editing.select_box(tokens, (0.4, 0.0, 0.6, 1.0)), [True, False, False]
    )


def test_dropped_tokens_draw_nothing():
    tokens = jnp.asarray(_tokens(shape=(6,)))
    where = jnp.arange(6) < 2
    dropped = editing.drop(tokens, where)
    assert dropped.shape == tokens.shape
    drawn = kernels.splat(dropped[:, :5], dropped[:, 5:], (16, 16))
    rest = kernels.splat(tokens[2:, :5], tokens[2:, 5:], (16, 16))
    np.testing.assert_allclose(drawn, rest, atol=1e-6)


def test_swapping_exchanges_textures_and_is_its_own_inverse():
    first, second = _tokens(0), _tokens(1)
    a, b = editing.swap_features(first, second)
    np.testing.assert_array_equal(a, np.concatenate([first[..., :5], second[..., 5:]], -1))
    np.testing.assert_array_equal(b, np.concatenate([second[..., :5], first[..., 5:]], -1))
    for ours, theirs in zip(editing.swap_features(a, b), (first, second), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@properties
@given(st.floats(0, 1))
def test_interpolation_stays_valid_and_reaches_both_ends(amount):
    first, second = _tokens(0), _tokens(1)
    between = np.asarray(editing.interpolate(first, second, amount))
    assert (between[..., :2] > 0).all() and (np.abs(between[..., 2]) < 1).all()
    np.testing.assert_allclose(editing.interpolate(second, first, 1 - amount), between, atol=1e-4)
    np.testing.assert_allclose(editing.interpolate(first, second, 0.0), first, atol=1e-5)
    np.testing.assert_allclose(editing.interpolate(first, second, 1.0), second, atol=1e-5)
    texture = editing.interpolate(first, second, amount, geometry=False)
    np.testing.assert_array_equal(texture[..., :5], first[..., :5])
    np.testing.assert_allclose(texture[..., 5:], between[..., 5:], atol=1e-6)
    shape = editing.interpolate(first, second, amount, features=False)
    np.testing.assert_array_equal(shape[..., 5:], first[..., 5:])
    np.testing.assert_allclose(shape[..., :5], between[..., :5], atol=1e-6)


def test_a_token_of_no_width_stays_finite():
    tokens = _tokens()
    tokens[..., 0] = 0
    for edited in (editing.rotate(tokens, 20), editing.interpolate(tokens, tokens, 0.5)):
        assert np.isfinite(edited).all()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"not by \[0.0, 1.0\]"):
        editing.scale(_tokens(), (0, 1))
    for edit in (editing.swap_features, lambda a, b: editing.interpolate(a, b, 0.5)):
        with pytest.raises(ValueError, match="geometry and boxes of the first"):
            edit(_tokens(), _tokens(shape=(2, 5)))
