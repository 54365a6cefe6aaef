"""Samplers: the published trajectories, known distributions, orders, and counted evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.generation.adaptive import sample_dopri5
from gpstoken_jax.generation.guidance import Guidance
from gpstoken_jax.generation.samplers import METHODS, TABLEAUS, Sampler, evaluations, sample
from gpstoken_jax.generation.transport import DIFFUSIONS, Transport

PUBLISHED = Guidance(scale=1.5, low=0.2, high=1.0)


@pytest.fixture(scope="module")
def network(sit, params):
    return lambda *arguments: sit.apply(params, *arguments)


@pytest.fixture(scope="module")
def predict(network, golden):
    """The guided network for the two images of the recordings, compiled once."""
    labels, cond = golden["cfg/y"][:2], golden["cfg/cond"][:2]
    return jax.jit(PUBLISHED.predictor(network, labels, 10, cond))


@pytest.mark.parametrize("where", ["inside", "below", "at_low", "above"])
def test_guidance_is_the_published_one(where, predict, golden):
    """The recorded second halves differ from the first: nothing of them may be used."""
    out = predict(golden["cfg/x"][:2], golden[f"cfg/t_{where}"][0])
    np.testing.assert_allclose(out, golden[f"cfg/out_{where}"][:2], atol=2e-6)


@pytest.mark.parametrize(("method", "steps"), [("euler", 16), ("midpoint", 16), ("rk4", 8)])
def test_ode_gives_the_published_samples(method, steps, predict, golden):
    start = golden["ode/z"][:2]
    made = sample(predict, Transport(), Sampler(f"ode_{method}", steps), lambda _: start)
    np.testing.assert_allclose(made, golden[f"ode/{method}_{steps}_last"][:2], atol=2e-6)


@pytest.mark.parametrize(
    "name", ["Euler_Mean_16", "Euler_None_16", "Euler_Tweedie_16", "Euler_Euler_16", "Heun_Mean_8"]
)
def test_recorded_noise_gives_the_published_trajectory(name, predict, golden):
    """To float32's own cost: Heun's first step cancels values of thousands."""
    method, last_step, steps = name.split("_")
    sampler = Sampler(f"sde_{method.lower()}", int(steps), last_step.lower())
    recorded = jnp.asarray(
        np.concatenate([golden["ode/z"][None, :2], golden[f"sde/noise_{steps}"][:, :2]])
    )
    states = sample(predict, Transport(), sampler, lambda i: recorded[i], trajectory=True)
    np.testing.assert_allclose(
        sampler.grid(Transport()), golden[f"sde/{name}/t_grid"], atol=1e-7, rtol=0
    )
    tolerance = 1e-3 if method == "Heun" else 5e-5
    for place, state in (("first", 1), ("before_last", -2), ("last", -1)):
        published = golden[f"sde/{name}/{place}"][:2]
        np.testing.assert_allclose(states[state], published, atol=tolerance, err_msg=place)
    channel = golden._arrays[f"sde/{name}/traj_ch3"][:, :2, :, 0]
    np.testing.assert_allclose(states[1 : len(channel), ..., 3], channel[:-1], atol=tolerance)


def test_dopri5_is_as_exact_as_asked_and_counts(network, golden):
    labels, cond = golden["cfg/y"][:2], golden["cfg/cond"][:2]
    calls = []

    @jax.jit
    def one(x, label, cond):
        predict = PUBLISHED.predictor(network, label[None], 10, cond[None], times_differ=True)

        def counted(x, t):
            one = jax.pure_callback(_count(calls), jax.ShapeDtypeStruct((), jnp.float32), t)
            return predict(x, t) * one

        return sample_dopri5(counted, Transport(), Sampler("ode_dopri5"), x[None])

    for image in range(2):
        calls.clear()
        made, count = one(golden["ode/z"][image], labels[image], cond[image])
        error = np.abs(made[0] - golden["ode/exact_f64_last"][image]).max()
        assert error < 1e-3  # the published one is off by 1e-3, at a relative tolerance of 1e-3
        assert len(calls) == count < 30


def _count(calls):
    def count(t):
        calls.append(float(t))
        return np.float32(1)

    return count


# ---- A distribution whose score is known: data N(1, 0.5^2) in every channel ----------------------

MEAN, STD = 1.0, 0.5


def _exact(transport):
    """The score of x_t, as a network would have learned it."""

    def predict(x, t):
        c = transport._at(t, x)
        return -(x - c.alpha * MEAN) / (c.alpha**2 * STD**2 + c.sigma**2)

    return predict


@pytest.mark.parametrize("form", DIFFUSIONS)
@pytest.mark.parametrize("method", ["sde_euler", "sde_heun"])
def test_every_diffusion_reaches_the_data(form, method):
    transport = Transport("linear", "score")
    # The last step takes away the spread that much diffusion would still add.
    last_step = "none" if form == "constant" else "mean"
    norm = 0.5 if form == "decreasing" else 1.0
    sampler = Sampler(method, 120, last_step, diffusion=form, diffusion_norm=norm)
    key = jax.random.key(0)

    def noise(number):
        return jax.random.normal(jax.random.fold_in(key, number), (1, 4000, 1))

    made = jax.jit(lambda: sample(_exact(transport), transport, sampler, noise))()
    assert abs(made.mean() - MEAN) < 0.05
    assert abs(made.std() - STD) < 0.05


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_the_ode_carries_noise_to_data_on_every_path(path):
    transport = Transport(path, "score")
    start = jnp.linspace(-2, 2, 9).reshape(1, 9, 1)
    made = jax.jit(
        lambda: sample(_exact(transport), transport, Sampler("ode_heun", 200), lambda _: start)
    )()
    np.testing.assert_allclose(made, MEAN + STD * start, atol=0.02)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_errors_fall_with_the_order_of_the_method(method, order):
    transport, start = Transport(), jnp.ones((1, 1, 1))

    def predict(x, t):  # d x / d t = 3 t^2 x
        return 3 * t**2 * x

    errors = []
    for steps in (17, 33):
        made = sample(predict, transport, Sampler(f"ode_{method}", steps), lambda _: start)
        errors.append(abs(float(made[0, 0, 0]) - np.e))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "ode_dopri5"])
@pytest.mark.parametrize("last_step", ["mean", "none"])
def test_evaluations_are_those_that_are_made(method, last_step):
    """Rows of the network by image: one outside the interval of guidance, two inside."""
    rows = []

    def network(x, times, labels, cond):
        jax.debug.callback(lambda n: rows.append(int(n)), len(x))
        return x * labels[:, None, None]

    guidance = Guidance(1.5, 0.3, 0.8)
    sampler, transport = Sampler(method, 8, last_step), Transport()
    labels = jnp.array([1, 2, 3])
    predict = guidance.predictor(network, labels, 7)
    jax.jit(lambda: sample(predict, transport, sampler, lambda _: jnp.ones((3, 2, 2))))()
    jax.effects_barrier()
    assert sum(rows) == 3 * evaluations(sampler, transport, guidance)
    slopes = 2 if method == "sde_heun" else 1
    if not sampler.is_sde:
        slopes = len(TABLEAUS[method].nodes)
    ends = sampler.is_sde and last_step == "mean"
    assert len(rows) == 7 * slopes + ends  # the release makes twice as many for an SDE
    assert set(rows) == {3, 6}


def test_half_the_evaluations_of_the_release_at_its_settings():
    """Published: 250 steps of Euler-Maruyama, two evaluations each, always on a doubled batch."""
    ours = evaluations(Sampler(), Transport(), PUBLISHED)
    assert ours == 448
    assert 250 * 2 * 2 / ours > 2.2


def test_mistakes_are_named():
    for options in ({"method": "x"}, {"last_step": "x"}, {"diffusion": "x"}):
        with pytest.raises(ValueError, match="must be one of"):
            Sampler(**options)
    with pytest.raises(ValueError, match="at least 2 steps"):
        Sampler(steps=1)
