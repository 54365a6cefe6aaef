"""The arithmetic of programs, against what can be counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from gpstoken_jax.training import flops
from gpstoken_jax.training.flops import Work, count_flops, utilisation


def test_products_and_loops():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert count_flops(jnp.dot, a, b) == 2 * 3 * 5 * 7
    assert count_flops(jax.jit(jnp.dot), a, b) == 2 * 3 * 5 * 7
    batched = jax.vmap(jnp.dot)
    assert count_flops(batched, jnp.ones((4, 3, 5)), jnp.ones((4, 5, 7))) == 4 * 2 * 3 * 5 * 7

    def loop(x):
        return jax.lax.scan(lambda x, _: (x @ b @ b.T, None), x, None, length=6)[0]

    assert count_flops(loop, a) == 6 * 2 * 2 * 3 * 5 * 7
    assert count_flops(jax.checkpoint(loop), a) == count_flops(loop, a)

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ b @ b.T, lambda x: x, x)

    assert count_flops(branch, a) == 2 * 2 * 3 * 5 * 7


def test_what_leads_to_no_result_does_not_count():
    a = jnp.ones((4, 4))

    @jax.jit
    def two(x):
        return x @ a, x @ a @ a

    def first(x):
        return two(x)[0]

    assert count_flops(two, a) == 3 * 2 * 4**3
    assert count_flops(first, a) == count_flops(jax.jit(first), a) == 2 * 4**3


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_and_their_gradients(stride):
    """Each of the two gradients is as much work as the convolution, also of a strided one."""
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 2, 3, 5))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    side = convolve(x, kernel).shape[1]
    forward = 2 * 2 * side**2 * 5 * 2 * 2 * 3
    assert count_flops(convolve, x, kernel) == forward
    for argument in (0, 1):
        grad = jax.grad(lambda *args: convolve(*args).sum(), argnums=argument)
        # Zeros at the border of the input's gradient count.
        assert count_flops(grad, x, kernel) == pytest.approx(forward, rel=0.35)


def test_share_of_the_peak(monkeypatch):
    work = Work()
    product = jax.jit(jnp.dot)
    for _ in range(3):
        work.follow(product, jnp.ones((10, 10)), jnp.ones((10, 10)))
    assert utilisation(1.0, 1.0) is None  # a CPU has no such peak
    monkeypatch.setitem(flops.PEAKS, jax.local_devices()[0].device_kind, 24_000.0)
    assert work.tick(0.5) == pytest.approx({"tflops": 12e-9, "mfu": 0.5})
    assert work.tick(0.5)["mfu"] == 0
