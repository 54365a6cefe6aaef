"""One suite for every implementation of `splat`: subclass it and name the implementation."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpstoken_jax import kernels
from tests.kernels.float64 import off_the_edges, splat64

GOLDEN = Path(__file__).parents[1] / "golden" / "renderer.npz"
NAMES = ("sigma_x", "sigma_y", "rho", "mu_x", "mu_y")

# regime: (sigma range, |rho| range, mu range, tolerance of values and gradients relative to their
# norm).
REGIMES = {
    "ordinary": ((0.03, 0.3), (0.0, 0.8), (-1, 1), 3e-6),
    "tiny": ((0.001, 0.02), (0.0, 0.8), (-1, 1), 3e-5),
    "huge": ((2.0, 50.0), (0.0, 0.8), (-1, 1), 3e-6),
    "needle": ((0.05, 0.3), (0.99, 0.99999), (-1, 1), 2e-3),
    "off the map": ((0.3, 1.0), (0.0, 0.8), (-3, 3), 1e-5),
}


def random_tokens(seed, count, channels, regime="ordinary", size=(16, 16), support=3.0):
    """Geometry [count, 5] of a regime, boxes' edges away from pixels, and features [count, C]."""
    rng = np.random.default_rng(seed)
    sigma, rho, mu, _ = REGIMES[regime]
    geometry = np.empty((count, 5), np.float32)
    geometry[:, :2] = np.exp(rng.uniform(*np.log(sigma), (count, 2)))
    geometry[:, 2] = rng.uniform(*rho, count) * rng.choice([-1, 1], count)
    geometry[:, 3:] = rng.uniform(*mu, (count, 2))
    features = rng.normal(size=(count, channels)).astype(np.float32)
    return off_the_edges(geometry, size, support), features


def relative(actual, expected) -> float:
    """Norm of the difference over the norm of the expected."""
    difference = np.linalg.norm(np.asarray(actual, np.float64) - expected)
    return difference / max(np.linalg.norm(expected), 1e-30)


def assert_same_gradient(actual, expected, tolerance, name):
    """Relative norm, direction, bias, and no entry silently zero."""
    actual = np.asarray(actual, np.float64)
    scale = max(np.linalg.norm(expected), 1e-30)
    assert relative(actual, expected) < tolerance, name
    cosine = (actual * expected).sum() / max(np.linalg.norm(actual) * scale, 1e-30)
    assert scale < 1e-20 or cosine > 1 - tolerance, name
    bias = abs((actual - expected).mean()) / max(np.abs(expected).mean(), 1e-30)
    assert bias < tolerance, name
    clear = np.abs(expected) > 1e-3 * np.abs(expected).max(initial=0)
    assert (actual[clear] != 0).all(), name


@functools.cache
def _compiled(splat, size, support):
    """The map and the gradients of sum(map * cotangent), compiled as a user would."""

    @jax.jit
    def run(geometry, features, cotangent):
        draw = functools.partial(splat, size=size, support=support)
        image, pullback = jax.vjp(draw, geometry, features)
        return image, *pullback(cotangent)

    return run


class SplatSuite:
    """Duties of any implementation; `implementation` is its name.

    Interpreters of GPU kernels are slow, so subclasses may list smaller cases. `precision` widens
    the tolerances of implementations that are not float32 throughout.
    """

    implementation: str
    golden = "abcdefghijk"
    regime_size, regime_tokens = (24, 20), 40
    shapes = (
        # size, tokens, channels
        ((1, 1), 1, 1),
        ((1, 9), 2, 3),
        ((7, 1), 31, 16),
        ((5, 3), 32, 32),
        ((16, 17), 33, 40),
        ((33, 8), 65, 4),
    )
    examples = 4
    precision = 1.0

    @classmethod
    def splat(cls, geometry, features, size, support=3.0):
        return kernels.splat(
            geometry, features, size, support=support, implementation=cls.implementation
        )

    def run(self, geometry, features, size, support, cotangent):
        run = _compiled(self.splat, size, support)
        return jax.tree.map(np.asarray, run(geometry, features, cotangent))

    def check(self, geometry, features, size, support, tolerance):
        """Compare values and all gradients of one image with float64."""
        rng = np.random.default_rng(7)
        cotangent = rng.normal(size=(*size, features.shape[-1])).astype(np.float32)
        exact = splat64(geometry, features, size, support, cotangent)
        image, d_geometry, d_features = self.run(geometry, features, size, support, cotangent)
        tolerance *= self.precision
        assert relative(image, exact.image) < tolerance
        for i, name in enumerate(NAMES):
            assert_same_gradient(d_geometry[:, i], exact.d_geometry[:, i], tolerance, name)
        assert_same_gradient(d_features, exact.d_features, tolerance, "features")

    # The published implementation

    def test_equals_published_values_and_gradients(self, subtests):
        if not self.golden:
            pytest.skip("these cases are too large for an interpreter")
        for case in self.golden:
            with subtests.test(case=case):
                self.check_golden(case)

    def check_golden(self, case):
        with np.load(GOLDEN) as stored:
            (name,) = {k.split("/")[0] for k in stored.files if k.startswith(f"{case}_")}
            data = {k.split("/")[1]: stored[k] for k in stored.files if k.startswith(f"{name}/")}
        *size, support = map(int, data["size_dmax"])
        geometry, features = data["tokens"][:, :5], data["tokens"][:, 5:]
        image, d_geometry, d_features = self.run(
            geometry, features, tuple(size), float(support), data["cot"]
        )
        # Cases g and h have |rho| up to 0.99999, where float32 itself is noisy.
        tolerance = {"f": 3e-5, "g": 2e-4, "h": 3e-4}.get(case, 1e-5) * self.precision
        assert relative(image, data["out_f64"]) < tolerance
        expected = np.concatenate([data["grad_sigmas"], data["grad_coords"]], axis=-1)
        for i, column in enumerate(NAMES):
            assert relative(d_geometry[:, i], expected[:, i]) < tolerance, column
        assert relative(d_features, data["grad_colors"]) < tolerance

    # Float64

    @pytest.mark.parametrize("regime", REGIMES)
    def test_equals_float64_in_every_regime(self, regime):
        tokens = random_tokens(1, self.regime_tokens, 8, regime, self.regime_size)
        self.check(*tokens, self.regime_size, 3.0, REGIMES[regime][-1])

    @pytest.mark.slow
    def test_any_size_and_number_of_tokens_and_channels(self, subtests):
        for size, count, channels in self.shapes:
            with subtests.test(size=size, count=count, channels=channels):
                tokens = random_tokens(3, count, channels, "off the map", size)
                self.check(*tokens, size, 3.0, 1e-5)

    def test_no_tokens_draw_nothing(self):
        geometry, features = np.zeros((2, 0, 5), np.float32), np.zeros((2, 0, 3), np.float32)
        image, d_geometry, d_features = self.run(
            geometry, features, (4, 6), 3.0, np.ones((2, 4, 6, 3), np.float32)
        )
        assert image.shape == (2, 4, 6, 3) and not image.any()
        assert d_geometry.shape == (2, 0, 5) and d_features.shape == (2, 0, 3)

    def test_an_edge_pixel_is_in_or_out_but_nothing_else(self):
        # The box ends on pixels 3 and 13 of 17, whose coordinates are exact in binary.
        geometry = np.array([[0.625 / 3, 10.0, 0.3, 0.0, 0.0]], np.float32)
        image = np.asarray(self.splat(geometry, np.ones((1, 1), np.float32), (3, 17)))[1, :, 0]
        wider = splat64(geometry, np.ones((1, 1)), (3, 17), 3.01, np.zeros((3, 17, 1)))
        expected = wider.image[1, :, 0]
        np.testing.assert_allclose(image[4:13], expected[4:13], rtol=1e-5 * self.precision)
        assert not image[:3].any() and not image[14:].any()
        for i in (3, 13):
            assert image[i] == 0 or abs(image[i] / expected[i] - 1) < 1e-5 * self.precision

    # Behaviour

    @pytest.mark.parametrize(
        "row",
        [
            [1e-30, 1e-38, 0.0, 0.0, 0.0],
            [1e-20, 3.0, 0.5, 0.0, 0.0],
            [3e38, 3e38, -0.999, 3e38, -3e38],
            [0.2, 0.2, 1.0, 0.0, 0.1],
            [0.2, 1e-6, -1.0, 0.0, 0.0],
            [0.3, 0.3, 7.0, 0.0, 0.0],
            [0.3, 0.3, -3e38, 0.2, 0.2],
            [1.0, 1.0, 0.0, 1e30, -1e30],
        ],
    )
    def test_finite_for_any_finite_geometry(self, row):
        size = (5, 9)
        geometry = np.array([row, [0.3, 0.3, 0.1, 0.0, 0.0]], np.float32)
        features, cotangent = np.ones((2, 2), np.float32), np.ones((*size, 2), np.float32)
        results = self.run(geometry, features, size, 3.0, cotangent)
        assert all(np.isfinite(r).all() for r in results)
        assert np.abs(results[0]).max() > 0.5

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("column", NAMES)
    def test_a_token_that_is_not_finite_touches_no_other(self, column, value):
        size = (9, 12)
        geometry, features = random_tokens(2, 12, 3, size=size)
        cotangent = np.random.default_rng(2).normal(size=(*size, 3)).astype(np.float32)
        exact = splat64(np.delete(geometry, 5, 0), np.delete(features, 5, 0), size, 3.0, cotangent)
        geometry[5, NAMES.index(column)] = value
        image, *gradients = self.run(geometry, features, size, 3.0, cotangent)
        assert relative(image, exact.image) < 1e-5 * self.precision
        for gradient, of_others in zip(
            gradients, (exact.d_geometry, exact.d_features), strict=True
        ):
            assert relative(np.delete(gradient, 5, 0), of_others) < 1e-4 * self.precision
            assert not gradient[5].any()

    @pytest.mark.slow
    def test_random_shapes_and_values(self):
        # The decorated function is made anew here because Hypothesis objects to inherited ones.
        @settings(deadline=None, max_examples=self.examples, derandomize=True, database=None)
        @given(
            size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
            count=st.integers(1, 40),
            channels=st.integers(1, 9),
            regime=st.sampled_from(sorted(set(REGIMES) - {"needle", "tiny"})),
            support=st.sampled_from([0.5, 3.0, 5.0]),
            seed=st.integers(0, 1000),
        )
        def check(size, count, channels, regime, support, seed):
            tokens = random_tokens(seed, count, channels, regime, size, support)
            # Few terms may cancel, so a map can be small beside its terms.
            self.check(*tokens, size, support, 2e-4)

        check()

    def test_two_runs_give_equal_bits(self):
        size, rng = self.regime_size, np.random.default_rng(5)
        cotangent = rng.normal(size=(*size, 8)).astype(np.float32)
        inputs = (*random_tokens(5, self.regime_tokens, 8, size=size), size, 3.0, cotangent)
        for a, b in zip(self.run(*inputs), self.run(*inputs), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_leading_axes_and_vmap_agree_with_one_by_one(self):
        size = (6, 7)
        pairs = [random_tokens(i, 10, 3, size=size) for i in range(4)]
        tokens = [np.stack(x).reshape(2, 2, 10, -1) for x in zip(*pairs, strict=True)]
        cotangent = np.random.default_rng(6).normal(size=(2, 2, *size, 3)).astype(np.float32)
        run = _compiled(self.splat, size, 3.0)
        together = run(*tokens, cotangent)
        mapped = jax.jit(jax.vmap(jax.vmap(run)))(*tokens, cotangent)
        for a, b in zip(together, mapped, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        for i, (geometry, features) in enumerate(pairs):
            image = np.asarray(together[0]).reshape(4, *size, 3)[i]
            exact = splat64(geometry, features, size, 3.0, cotangent.reshape(4, *size, 3)[i])
            assert relative(image, exact.image) < 1e-5 * self.precision

    def test_vmap_over_features_alone(self):
        size = (6, 7)
        geometry, features = random_tokens(8, 10, 3, size=size)
        draw = jax.jit(jax.vmap(lambda f: self.splat(geometry, f, size)))
        mapped = draw(jnp.stack([features, -2 * features]))
        np.testing.assert_allclose(mapped[1], -2 * mapped[0], rtol=1e-5, atol=1e-6)

    def test_bfloat16_features_keep_their_type(self):
        size = (8, 8)
        geometry, features = random_tokens(9, 10, 4, size=size)
        narrow, cotangent = jnp.asarray(features, jnp.bfloat16), jnp.ones((*size, 4), jnp.bfloat16)
        image, d_geometry, d_features = self.run(geometry, narrow, size, 3.0, cotangent)
        exact = splat64(geometry, narrow.astype(np.float32), size, 3.0, np.ones((*size, 4)))
        assert image.dtype == d_features.dtype == jnp.bfloat16
        assert d_geometry.dtype == np.float32
        assert relative(image.astype(np.float32), exact.image) < 5e-3
        assert relative(d_features.astype(np.float32), exact.d_features) < 5e-3
        assert relative(d_geometry, exact.d_geometry) < 5e-3

    def test_checkpoint_gives_the_same_gradient(self):
        size = (6, 7)
        tokens = random_tokens(11, 10, 3, size=size)
        loss = lambda g, f: (self.splat(g, f, size) ** 2).sum()  # noqa: E731
        plain = jax.jit(jax.grad(loss, (0, 1)))(*tokens)
        remade = jax.jit(jax.grad(jax.checkpoint(loss), (0, 1)))(*tokens)
        for a, b in zip(plain, remade, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    def test_pmap_and_shard_map_give_the_same_gradient(self):
        size = (6, 7)
        tokens = tuple(a[None] for a in random_tokens(11, 10, 3, size=size))
        gradient = jax.grad(lambda g, f: (self.splat(g, f, size) ** 2).sum(), (0, 1))
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
        spec = jax.sharding.PartitionSpec("data")
        sharded = jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec)
        plain = jax.jit(gradient)(*tokens)
        for function in (jax.pmap(gradient, devices=jax.devices()[:1]), jax.jit(sharded)):
            for a, b in zip(plain, function(*tokens), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
