"""Functions over devices get what their axes say, however many leaves the arguments have."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.runtime.devices import map_over_devices, pad_shard_unpad

ROOT = Path(__file__).parents[2]
AXES = {1: (0,), 2: (None, 0), 5: (0, 0, None, None, None)}


def argument(rng, leaves, axis):
    """A tree of so many leaves; 0 is None, 1 an array alone."""
    shape = (jax.local_device_count(), 2, 3) if axis == 0 else (2, 3)
    arrays = [rng.normal(size=shape).astype(np.float32) for _ in range(leaves)]
    if leaves < 2:
        return arrays[0] if arrays else None
    return {"pair": arrays[:2], **{str(i): array for i, array in enumerate(arrays[2:])}}


def function(*arguments):
    """Keeps the shapes inside visible: the values depend on each argument's own shape."""
    summed = [jax.tree.map(lambda x: x.sum(0) * x.ndim * x.shape[0], tree) for tree in arguments]
    return {"trees": summed, "leaves": jnp.float32(len(jax.tree.leaves(arguments)))}


def cases(num_arguments):
    """Every number of leaves 1..6 in each of the arguments, among others of one leaf or None."""
    axes = AXES[num_arguments]
    for place, leaves, shared in product(range(len(axes)), range(1, 7), (0, 1)):
        counts = [1 if axis == 0 else shared for axis in axes]
        counts[place] = leaves
        yield axes, tuple(counts)


def check_all(num_arguments):
    rng, seen = np.random.default_rng(0), set()
    for axes, counts in dict.fromkeys(cases(num_arguments)):
        arguments = [argument(rng, n, axis) for n, axis in zip(counts, axes, strict=True)]
        ours = map_over_devices(function, axes, devices=jax.local_devices())(*arguments)
        theirs = jax.vmap(function, axes)(*arguments)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), ours, theirs)
        seen.add(sum(counts))
    return seen


@pytest.mark.parametrize("num_arguments", AXES)
def test_arguments_of_any_number_of_leaves_keep_their_axes(num_arguments):
    seen = check_all(num_arguments)  # as many leaves as arguments, and one fewer, among them
    assert set(range(max(1, num_arguments - 1), 7)) <= seen


def test_on_four_devices_too():
    code = "from tests.runtime.test_devices import check_all; print(len(check_all(5)))"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    env = os.environ | {"XLA_FLAGS": flags}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0 and int(run.stdout) > 6, run.stderr


@pytest.mark.parametrize("results", range(1, 7))
@pytest.mark.parametrize("donated", [0, 1])
def test_results_that_are_the_same_everywhere_have_no_axis(results, donated):
    """As a training step has them: state in and out, metrics out."""

    def step(state, batch, frozen):
        mean = jax.lax.pmean(batch["x"].mean(), "data") + frozen["y"]
        return {str(i): state + i + mean for i in range(results)}, mean

    mapped = map_over_devices(
        step, (None, 0, None), (None, None), axis_name="data", donate_first=donated
    )
    batch = {"x": np.arange(jax.local_device_count() * 4, dtype=np.float32)}
    batch["x"] = batch["x"].reshape(-1, 4)
    for _ in range(2):
        state, metric = mapped(jnp.float32(1), batch, {"y": jnp.float32(2)})
        assert metric.shape == () and metric == batch["x"].mean() + 2
        assert [float(state[str(i)]) for i in range(results)] == [
            1 + i + metric for i in range(results)
        ]


def test_a_wrong_number_of_arguments_is_named():
    with pytest.raises(TypeError, match="2 arguments for 1 axes"):
        map_over_devices(lambda x: x, (0,))(1, 2)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_batch_is_shared_out_and_comes_back_whole(count):
    images = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    run = pad_shard_unpad(lambda params, batch: {"twice": params * batch["x"]})
    np.testing.assert_allclose(run(np.float32(2), {"x": images})["twice"], 2 * images)
