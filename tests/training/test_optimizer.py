"""Learning rate and optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpstoken_jax.configs import common
from gpstoken_jax.training.optimizer import create_optimizer, learning_rate, matrix_axes


@pytest.fixture
def config():
    return common.get_config().optimizer


def test_the_published_recipe_is_adam_at_a_constant_rate(config):
    assert learning_rate(config, 100)(0) == learning_rate(config, 100)(99) == pytest.approx(5e-5)
    params, grads = jnp.array([1.0, -2.0]), jnp.array([0.3, -4.0])
    ours, reference = (
        create_optimizer(config, learning_rate(config, 100)),
        optax.adam(5e-5, b1=0.5, b2=0.9),
    )
    for optimizer in (ours, reference):
        state = optimizer.init(params)
        update, _ = optimizer.update(grads, state, params)
        np.testing.assert_allclose(update, [-5e-5, 5e-5], rtol=1e-3)


def test_warmup_rises_and_cosine_falls_to_zero(config):
    config.update(learning_rate=1.0, warmup_steps=10, decay="cosine")
    schedule = learning_rate(config, 110)
    rates = np.array([schedule(i) for i in range(111)])
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, atol=1e-6)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[60] == pytest.approx(0.5, abs=0.01)
    assert rates[110] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_rates_are_those_of_optax(config, warmup):
    """As they were when they were constants of the step before: a run goes on as it was begun."""
    config.update(warmup_steps=warmup)
    peak, counts = config.learning_rate, np.arange(0, 130, 3)
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    falls = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, 110 - warmup),
    }
    for config.decay, fall in falls.items():
        theirs = optax.join_schedules([rise, fall], [warmup])
        ours = learning_rate(config, 110)
        pairs = [(ours(jnp.int32(n)), jnp.float32(theirs(jnp.int32(n)))) for n in counts]
        np.testing.assert_array_max_ulp(*map(np.array, zip(*pairs, strict=True)), maxulp=2)


def test_clipping_bounds_the_gradient_norm(config):
    config.update(clip_norm=1.0, b1=0.0)
    clipped = create_optimizer(config, learning_rate(config, 10))
    state = clipped.init(jnp.zeros(2))
    _, state = clipped.update(jnp.array([30.0, 40.0]), state, jnp.zeros(2))
    first_moment = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(first_moment, [0.6, 0.8], rtol=1e-5)


def test_unknown_decay_is_named(config):
    config.decay = "linear"
    with pytest.raises(ValueError, match="'linear'"):
        learning_rate(config, 10)


def test_unknown_optimizer_is_named(config):
    config.name = "sgd"
    with pytest.raises(ValueError, match="'sgd'"):
        create_optimizer(config, learning_rate(config, 10))


def test_a_config_of_before_there_was_a_choice_has_adam(config):
    del config.name
    state = create_optimizer(config, learning_rate(config, 10)).init(
        {"kernel": jnp.zeros((32, 32))}
    )
    assert optax.tree_utils.tree_get(state, "nu")["kernel"].shape == (32, 32)


@pytest.mark.parametrize(
    "shape, matrices",
    [((32, 48), (1, 32, 48)), ((3, 32, 48), (3, 32, 48)), ((3, 3, 16, 24), (1, 144, 24))],
)
def test_muon_gives_matrices_steps_with_all_singular_values_alike(config, shape, matrices):
    config.update(name="muon", learning_rate=1.0)
    params = {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[-1])}
    rng, fade = np.random.default_rng(0), np.linspace(0.1, 1.0, shape[-1])
    grads = {
        name: jnp.array(fade * rng.normal(size=p.shape), p.dtype) for name, p in params.items()
    }
    optimizer = create_optimizer(config, learning_rate(config, 10))
    update, _ = optimizer.update(grads, optimizer.init(params), params)
    values = np.linalg.svd(np.asarray(update["kernel"]).reshape(matrices), compute_uv=False)
    before = np.linalg.svd(np.asarray(grads["kernel"]).reshape(matrices), compute_uv=False)
    assert before.max() / before.min() > 4
    assert values.max() / values.min() < 2  # Newton-Schulz leaves them between 0.7 and 1.2
    assert np.sqrt(np.square(update["kernel"]).mean()) == pytest.approx(0.2, rel=0.3)
    sizes = np.abs(update["bias"])  # Adam's first step is as long for any gradient
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-3)


def test_small_and_other_parameters_have_adam():
    shapes = {"kernel": (3, 3, 64, 3), "position_kernel": (64, 8), "bias": (64,), "scale": (4, 64)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    assert matrix_axes(params) == dict.fromkeys(shapes)


def test_a_step_takes_any_schedule_without_being_compiled_again():
    compiled = []

    @jax.jit
    def step(params, state, rate):
        compiled.append(rate)
        return create_optimizer(common.get_config().optimizer, rate).update(params, state, params)

    params, config = jnp.ones(2), common.get_config().optimizer
    state = create_optimizer(config, learning_rate(config, 10)).init(params)
    runs = ((0.5, "constant", 0, 10), (0.25, "cosine", 2, 30))
    for count, run in enumerate(runs):
        config.learning_rate, config.decay, config.warmup_steps, steps = run
        rate = learning_rate(config, steps)
        update, state = step(params, state, rate)
        np.testing.assert_allclose(-update, rate(count), rtol=1e-4)
    assert len(compiled) == 1
