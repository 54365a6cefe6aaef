"""Paths, predictions and losses: published values, and identities that hold whatever they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpstoken_jax.generation.transport import DIFFUSIONS, PATHS, PREDICTIONS, Transport

PUBLISHED_PATHS = {"linear": "Linear", "gvp": "GVP", "vp": "VP"}
PUBLISHED_FORMS = dict(
    zip(
        DIFFUSIONS,
        ("SBDM", "constant", "sigma", "linear", "decreasing", "inccreasing-decreasing"),
        strict=True,
    )
)
KINDS = [
    (path, prediction)
    for path in PATHS
    for prediction in PREDICTIONS
    if (path, prediction) != ("vp", "velocity")
]
TIMES = st.floats(0.02, 0.98)


@pytest.fixture(scope="module")
def output(sit, params, golden):
    """The network's output for the recorded points, read as whatever it is to be."""
    arguments = [golden[name] for name in ("coef/x", "coef/t", "cfg/y", "cfg/cond")]
    return jax.jit(sit.apply)(params, *arguments)


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_coefficients_are_the_published_ones(path, golden):
    t, name = jnp.asarray(golden["coef/t"]), PUBLISHED_PATHS[path]
    c = PATHS[path](t)
    np.testing.assert_allclose(
        np.stack([c.alpha, c.d_alpha, c.sigma, c.d_sigma]),
        golden[f"coef/alpha_sigma_{name}"],
        atol=1e-7,
    )
    for form, published in PUBLISHED_FORMS.items():
        np.testing.assert_allclose(
            Transport(path).diffusion(t, form, 1.3),
            golden[f"coef/diffusion_{name}_{published}"],
            rtol=1e-6,
            err_msg=form,
        )


@pytest.mark.parametrize(("path", "prediction"), KINDS)
def test_drift_and_score_are_the_published_ones(path, prediction, output, golden):
    transport, x, t = Transport(path, prediction), golden["coef/x"], golden["coef/t"]
    drift, score = transport.velocity(output, x, t), transport.score(output, x, t)
    made = {
        "drift": drift,
        "score": score,
        "sde_drift": drift + transport.diffusion(jnp.asarray(t))[:, None, None] * score,
    }
    for name, value in made.items():
        published = golden[f"coef/{PUBLISHED_PATHS[path]}_{prediction}/{name}"]
        largest = np.abs(published).max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(value[:, :4] / largest, published / largest, atol=2e-6)


@pytest.mark.parametrize(
    ("path", "prediction", "weight"),
    [
        ("linear", "velocity", "none"),
        ("gvp", "velocity", "none"),
        ("linear", "noise", "velocity"),
        ("linear", "score", "likelihood"),
        ("linear", "noise", "none"),
    ],
)
def test_losses_are_the_published_ones(path, prediction, weight, sit, params, golden):
    transport = Transport(path, prediction, weight)
    data, noise, t, labels, cond = (golden[f"train/{k}"] for k in ("x1", "x0", "t", "y", "cond"))
    x, velocity = transport.interpolate(data, noise, t)
    loss = transport.loss(jax.jit(sit.apply)(params, x, t, labels, cond), data, noise, t)
    name = f"train/{PUBLISHED_PATHS[path]}_{prediction}_{'None' if weight == 'none' else weight}"
    np.testing.assert_allclose(loss, golden[f"{name}/loss"], rtol=2e-6)
    if prediction == "velocity":
        np.testing.assert_allclose(x, golden[f"{name}/xt"], atol=1e-6)
        np.testing.assert_allclose(velocity, golden[f"{name}/ut"], atol=1e-6)


def test_gradients_are_the_published_ones(sit, params, golden):
    data, noise, t, labels, cond = (golden[f"train/{k}"] for k in ("x1", "x0", "t", "y", "cond"))
    transport = Transport()

    def loss(params):
        x, _ = transport.interpolate(data, noise, t)
        return transport.loss(sit.apply(params, x, t, labels, cond), data, noise, t).mean()

    made = jax.jit(jax.grad(loss))(params)["params"]
    pairs = {
        "x_embedder.proj.weight": made["token_in"]["kernel"].T[:, :, None, None],
        "cond_embedder.0.weight": made["condition"]["dense1"]["kernel"].T,
        "y_embedder.embedding_table.weight": made["label"]["embedding"],
        "t_embedder.mlp.2.bias": made["time"]["dense2"]["bias"],
        "blocks.0.attn.qkv.bias": made["blocks"]["qkv"]["bias"][0],
        "blocks.1.adaLN_modulation.1.bias": made["blocks"]["modulation"]["bias"][1],
        "final_layer.linear.weight": made["final"]["token_out"]["kernel"].T,
    }
    for name, gradient in pairs.items():
        published = np.asarray(golden._arrays[f"train/grad/{name}"])
        scale = np.abs(published).max()
        np.testing.assert_allclose(gradient / scale, published / scale, atol=5e-6, err_msg=name)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=20, deadline=None)
@given(t=TIMES)
def test_derivatives_are_those_of_the_path(path, t):
    with jax.enable_x64(True):
        coefficients = PATHS[path](jnp.float64(t))
        d_alpha, d_sigma = jax.jacfwd(lambda t: jnp.stack(PATHS[path](t)[::2]))(jnp.float64(t))
        np.testing.assert_allclose(coefficients.d_alpha, d_alpha, rtol=1e-9)
        np.testing.assert_allclose(coefficients.d_sigma, d_sigma, rtol=1e-9)


@pytest.mark.parametrize(("path", "prediction"), KINDS)
@settings(max_examples=20, deadline=None)
@given(t=TIMES, data=st.floats(-3, 3), noise=st.floats(-3, 3))
def test_a_perfect_prediction_gives_velocity_score_and_data(path, prediction, t, data, noise):
    """For data that is one point: x_t then tells its noise, and every prediction is known."""
    with jax.enable_x64(True):
        transport, time = Transport(path, prediction), jnp.float64(t)
        data, noise = jnp.full((1, 1), data), jnp.full((1, 1), noise)
        x, velocity = transport.interpolate(data, noise, time)
        sigma = PATHS[path](time).sigma
        output = {"velocity": velocity, "noise": noise, "score": -noise / sigma}[prediction]
        np.testing.assert_allclose(transport.velocity(output, x, time), velocity, atol=1e-8)
        np.testing.assert_allclose(transport.score(output, x, time), -noise / sigma, atol=1e-8)
        np.testing.assert_allclose(transport.denoised(output, x, time), data, atol=1e-7)
        assert transport.loss(output, data, noise, time.reshape(1)).max() < 1e-12


@pytest.mark.parametrize(("path", "prediction"), KINDS)
def test_times_are_where_everything_is_finite(path, prediction):
    transport = Transport(path, prediction)
    x, output = jnp.ones((2, 3)), jnp.ones((2, 3))
    low, high = transport.training_times
    assert 0 <= low < 0.01 and 0.99 < high <= 1
    ends = jnp.array(transport.ode_times)
    assert np.isfinite(transport.velocity(output, x, ends)).all()
    start, end = transport.sde_times(0.04)
    assert (start, end) == (1e-3, 0.96)
    assert np.isfinite(transport.score(output, x, jnp.array([start, end]))).all()
    assert transport.sde_times(0.0)[1] == transport.ode_times[1]


def test_unknown_names_are_refused():
    for options in ({"path": "x"}, {"prediction": "x"}, {"loss_weight": "x"}):
        with pytest.raises(ValueError, match="must be one of"):
            Transport(**options)
    with pytest.raises(ValueError, match="without path='vp'"):
        Transport("vp", "velocity")
    with pytest.raises(ValueError, match="diffusion must be one of"):
        Transport().diffusion(jnp.ones(()), "x")
