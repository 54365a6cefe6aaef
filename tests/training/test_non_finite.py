"""A step that is not finite changes nothing but the number of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.training.non_finite import NonFiniteError, SkippedSteps, update_if_finite
from gpstoken_jax.training.state import DiscriminatorState, TokenizerState


def _state(value, step):
    x = {"w": jnp.full(3, value)}
    counter = jnp.int32(np.nan_to_num(value))
    return TokenizerState(
        jnp.int32(step), x, x, (x, counter), DiscriminatorState(x, {"mean": x["w"]}, (x, counter))
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_all_or_nothing(value):
    metrics = {"loss": jnp.float32(1), "grad_norm": jnp.float32(value)}
    new = _state(np.nan if value else 5.0, step=8)  # what a bad gradient makes of everything
    step = jax.jit(lambda state, new: update_if_finite(lambda _, new: new, state, new, metrics))
    result, said = step(_state(2.0, step=7), new)
    expected = _state(2.0 if value else 5.0, step=8)
    jax.tree.map(np.testing.assert_array_equal, result, expected)
    assert said["skipped"] == (value != 0.0) and said["loss"] == 1


def test_only_an_uninterrupted_row_stops(tmp_path):
    skipped = SkippedSteps(3, tmp_path / "failed")
    for step, bad in enumerate([1, 1, 0, 1, 1, 0, 1], start=1):
        skipped.follow(step, {"x": np.zeros(1)}, {"loss": np.nan if bad else 1.0, "skipped": bad})
    skipped.catch_up()
    assert (skipped.count, skipped.in_a_row) == (5, 1)
    assert not (tmp_path / "failed").exists()
    for step in (8, 9):
        skipped.follow(step, {"x": np.full(1, step)}, {"loss": np.inf, "skipped": 1})
    with pytest.raises(NonFiniteError, match="3 steps in a row were not finite; in step 9 loss is"):
        skipped.catch_up()
    assert np.load(tmp_path / "failed" / "9_process_0.npz")["x"] == 9
