"""Steps of a tokenizer's training: what each updates, on how many devices, in how many parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from gpstoken_jax.configs import common, tiny_gan
from gpstoken_jax.model.gpstoken import init_params
from gpstoken_jax.training.ema import ema_decay
from gpstoken_jax.training.flops import inner_programs
from gpstoken_jax.training.gradients import AUTOENCODER, BOTH, DISCRIMINATOR, WITHOUT_GAN
from gpstoken_jax.training.schedule import autoencoder_updates, update_after
from gpstoken_jax.training.step import AXIS, on_all_devices
from gpstoken_jax.training.task import create_task
from gpstoken_jax.training.tokenizer import partition_into
from tests.smallest import SMALLEST


def _config(**train):
    config = tiny_gan.get_config("smoke")
    config.update_from_flattened_dict(SMALLEST)
    config.gan.update(start_step=2, weight=1e-6)
    config.ema.update(decay=0.9999, update_every=1, update_after=0)
    config.gan.discriminator.update(channels=4, norm_groups=2)
    config.train.update(train)
    return config


def _on_devices(function, count):
    """A step on ``count`` devices that share this one."""
    mapped = jax.vmap(
        function, axis_name=AXIS, in_axes=(None, 0, None), out_axes=None, axis_size=count
    )
    return jax.jit(mapped)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def state():
    return create_task(_config()).create_state(jax.random.key(0))


def _lower(state, images, *, devices=1, number=3, **changes):
    """The step number ``number`` before it is compiled, and its arguments."""
    config = _config()
    config.update_from_flattened_dict(changes)
    task = create_task(config)
    batch = {"image": images.reshape(devices, -1, *images.shape[1:])}
    arguments = state, batch, task.load_frozen()
    return _on_devices(task.step_at(number), devices).lower(*arguments), arguments


def _step(state, images, *, devices=1, number=3, **train):
    changes = {f"train.{name}": value for name, value in train.items()}
    lowered, arguments = _lower(state, images, devices=devices, number=number, **changes)
    return lowered.compile()(*arguments)


@pytest.fixture(scope="module")
def lowered(state, images):
    return _lower(state, images)


@pytest.fixture(scope="module")
def stepped(lowered):
    step, arguments = lowered
    return step.compile()(*arguments)


def _differences(state, other):
    """Largest difference of the first moments, which are the gradients, relative to the largest."""

    def difference(a, b):
        return float(jnp.abs(a - b).max() / jnp.maximum(jnp.abs(b).max(), 1e-4))

    def moments(state):
        states = state.opt_state, state.discriminator.opt_state
        return [optax.tree_utils.tree_get(s, "mu") for s in states]

    return max(jax.tree.leaves(jax.tree.map(difference, moments(state), moments(other))))


def test_a_step_with_the_gan_updates_both_networks(state, stepped):
    new, metrics = stepped
    assert new.step == 1
    for old_params, params in (
        (state.params, new.params),
        (state.discriminator.params, new.discriminator.params),
    ):
        changed = jax.tree.map(lambda a, b: bool((a != b).any()), old_params, params)
        assert sum(jax.tree.leaves(changed)) > 0.8 * len(jax.tree.leaves(changed))
    total = float(metrics["mse"] + metrics["gan_weight"] * metrics["gan"])
    assert metrics["loss"] == pytest.approx(total)


def test_another_learning_rate_length_or_schedule_compiles_nothing(lowered, state, images):
    """The step is the same text to the compiler."""
    rates = {"learning_rate": 0.1, "warmup_steps": 7, "decay": "cosine"}
    change = {
        f"{section}.{k}": v for section in ("optimizer", "gan.optimizer") for k, v in rates.items()
    }
    other, _ = _lower(state, images, **change, **{"train.steps": 11, "gan.start_step": 1})
    assert other.as_text() == lowered[0].as_text()


def _changed(params, new):
    return any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), params, new)))


def test_each_step_draws_one_of_the_numbers_of_tokens(state, images):
    config = _config()
    config.train.num_tokens = (2, 4, 4)
    task, again = create_task(config), create_task(config)
    numbers = [task.step_at(step).keywords["num_tokens"] for step in range(1, 200)]
    assert numbers == [again.step_at(step).keywords["num_tokens"] for step in range(1, 200)]
    assert set(numbers) == {2, 4} and 100 < numbers.count(4) < 165  # two thirds
    steps = {task.step_at(step) for step in range(3, 200)}  # after the start of the GAN
    assert len(steps) == 2  # compiled once each
    arguments = state, {"image": images[None]}, task.load_frozen()
    sizes = [_tokens_in(task.step_at(numbers.index(n) + 1), arguments) for n in (2, 4)]
    assert sizes == [{2}, {4}]


def test_more_tokens_than_there_is_room_for_take_smaller_regions():
    config = _config()
    config.partition.min_size, config.model.image_size = 8, 64
    sizes = {n: partition_into(n, config) for n in (1, 64, 65, 256, 257)}
    least = {n: arguments["min_size"] for n, arguments in sizes.items()}
    assert least == {1: 8, 64: 8, 65: 4, 256: 4, 257: 2}
    assert all(arguments["num_tokens"] == n for n, arguments in sizes.items())


def _tokens_in(step, arguments):
    """Numbers of tokens that a step encodes images into."""
    seen = set()

    def encode(next_fun, args, kwargs, context):
        if context.method_name == "encode":
            seen.add(args[1].shape[1])
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(encode):
        jax.eval_shape(on_all_devices(step), *arguments)
    return seen


def test_odd_steps_of_the_published_schedule_update_the_discriminator(state, images):
    new, metrics = _step(state, images, number=4, schedule="alternate")  # three are done
    assert _changed(state.discriminator.params, new.discriminator.params)
    assert not _changed((state.params, state.ema_params), (new.params, new.ema_params))
    assert new.step == 1 and "loss" not in metrics


@pytest.mark.slow
def test_even_steps_update_the_autoencoder_and_its_average_counts_them(state, images):
    """Half of the steps since the start have been the discriminator's."""
    done = 10
    state = state.replace(step=jnp.int32(done))
    config = _config(schedule="alternate")
    new, metrics = _step(state, images, number=done + 1, schedule="alternate")
    assert not _changed(state.discriminator.params, new.discriminator.params)
    assert new.step == done + 1 and {"loss", "gan", "gan_weight"} < set(metrics)
    decay = ema_decay(autoencoder_updates(done, config), config.ema)
    assert 0 < decay != ema_decay(jnp.int32(done), config.ema)
    moved = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema_params, new.params)
    for ours, expected in zip(jax.tree.leaves(new.ema_params), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_two_devices_do_what_one_does(state, stepped, images):
    two, metrics = _step(state, images, devices=2)
    assert _differences(two, stepped[0]) < 1e-3
    for name, value in metrics.items():
        assert value == pytest.approx(float(stepped[1][name]), rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_the_whole_batch(state, stepped, images):
    """The GAN's weight, which depends on the parts, is next to nothing here."""
    parts, metrics = _step(state, images, accumulate=2)
    assert _differences(parts, stepped[0]) < 1e-3
    for name in ("loss", "discriminator", "grad_norm", "grad_norm_discriminator"):
        assert metrics[name] == pytest.approx(float(stepped[1][name]), rel=1e-3), name
    with pytest.raises(ValueError, match=r"train\.accumulate=3 does not divide the 4 images"):
        _step(state, images, accumulate=3)


@pytest.mark.slow
def test_bfloat16_and_recomputed_blocks_are_close(state, stepped, images):
    """Computed in bfloat16, kept in float32; blocks computed again are the same blocks."""
    config = _config()
    config.model.dtype = "bfloat16"
    config.model.encoder.remat = config.model.decoder.remat = True
    task = create_task(config)
    step = _on_devices(task.step_at(3), 1)
    new, metrics = step(state, {"image": images[None]}, task.load_frozen())
    for name in ("loss", "mse", "discriminator"):
        assert metrics[name].dtype == jnp.float32
        assert metrics[name] == pytest.approx(float(stepped[1][name]), rel=0.02), name
    for ours, theirs in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
        assert ours.dtype == theirs.dtype != jnp.bfloat16
    grads, expected = (
        jnp.concatenate(
            [x.ravel() for x in jax.tree.leaves(optax.tree_utils.tree_get(s.opt_state, "mu"))]
        )
        for s in (new, stepped[0])
    )
    cosine = jnp.vdot(grads, expected) / jnp.linalg.norm(grads) / jnp.linalg.norm(expected)
    assert 0.99 < cosine < 0.999999  # the upper end: it was not float32 after all


def test_sums_of_the_forward_pass_are_float32(images):
    config = _config()
    config.model.dtype = "bfloat16"
    task = create_task(config)
    params = jax.eval_shape(lambda key: init_params(task.model, key), jax.random.key(0))
    geometry, boxes = jnp.full((4, 4, 5), 0.5), jnp.tile(jnp.array([-1.0, -1, 1, 1]), (4, 4, 1))
    program = jax.make_jaxpr(task.model.apply)(params, images, geometry, boxes)
    operations = list(_operations(program.jaxpr))
    summed = [e for e in operations if e.primitive.name in ("reduce_sum", "reduce_max")]
    assert len(summed) > 10
    assert not [e for e in summed if e.invars[0].aval.dtype == jnp.bfloat16]
    products = [e for e in operations if e.primitive.name == "conv_general_dilated"]
    halves = [e for e in products if e.invars[0].aval.dtype == jnp.bfloat16]
    assert len(halves) == len(products) - 1  # all but the one that makes the image


def _operations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_programs(equation):
            yield from _operations(inner)


def test_checkpoint_trees_hold_everything(state):
    task = create_task(_config())
    trees = task.to_trees(state)
    assert set(trees) == {"params", "ema_params", "optimizer", "discriminator"}
    again = task.from_trees(trees)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    without = _config()
    without.gan.weight = 0.0
    task = create_task(without)
    trees = task.to_trees(state.replace(discriminator=None))
    assert set(trees) == {"params", "ema_params", "optimizer"}
    assert task.from_trees(trees).discriminator is None and task.discriminator is None


def test_the_alternation_is_the_published_one(golden_dir):
    """Network by step of the release's loop; the autoencoder's updates are what the EMA counts."""
    config = common.get_config()
    config.train.schedule, config.gan.start_step = "alternate", 3
    trace = np.load(golden_dir / "adversarial.npz")["train_loop_start_3"]
    updates = [update_after(done, config) for done in trace[:, 1]]
    assert [int(update.discriminator) for update in updates] == trace[:, 3].tolist()
    counts = [int(autoencoder_updates(done, config)) for done in trace[:, 1]]
    assert counts == [0, *np.cumsum(1 - trace[:-1, 3])]
    assert updates[:3] == [WITHOUT_GAN] * 3
    assert updates[3:6] == [AUTOENCODER, AUTOENCODER, DISCRIMINATOR]  # it is heard untrained


@pytest.mark.parametrize("start", [0, 1, 2, 3, 6, 7])
def test_updates_of_the_autoencoder_are_counted(start):
    config = common.get_config()
    config.train.schedule, config.gan.start_step = "alternate", start
    kinds = [update_after(done, config) for done in range(20)]
    expected = np.cumsum([kind.autoencoder for kind in kinds])
    assert [int(autoencoder_updates(done + 1, config)) for done in range(20)] == expected.tolist()
    assert kinds[:start] == [WITHOUT_GAN] * start and kinds[start] == AUTOENCODER


def test_both_networks_start_together_by_default():
    config = common.get_config()
    config.gan.start_step = 3
    kinds = [update_after(done, config) for done in range(5)]
    assert kinds == [WITHOUT_GAN] * 3 + [BOTH] * 2
    assert int(autoencoder_updates(7, config)) == 7
    config.gan.weight = 0.0
    assert update_after(900_000, config) == WITHOUT_GAN
    config.train.schedule = "random"
    with pytest.raises(ValueError, match=r"train\.schedule"):
        update_after(0, config)
