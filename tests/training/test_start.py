"""Starting from another run's weights, and parts that do not learn."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.configs import finetune, gpstoken_m128
from gpstoken_jax.configs.check import find_mistakes
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.runtime.run_directory import RunDirectory, read_config
from gpstoken_jax.tokenizer import Tokenizer
from gpstoken_jax.training.flops import count_flops
from gpstoken_jax.training.start import frozen_at_random, frozen_leaves, parameter_name, start_from
from gpstoken_jax.training.step import AXIS
from gpstoken_jax.training.task import create_task
from tests.random_run import write_random_run
from tests.training.test_tokenizer_task import _config, _on_devices


def named(params):
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {parameter_name(path): np.asarray(value) for path, value in leaves}


@pytest.fixture
def params():
    ones = lambda *shape: jnp.ones(shape)  # noqa: E731
    return {"params": {"encoder": {"a": ones(2), "b": ones(3)}, "decoder": {"c": ones(4)}}}


def test_what_fits_is_loaded_and_the_rest_is_listed(params):
    source = {
        "params": {"encoder": {"a": np.zeros(2), "b": np.zeros(5)}, "old": {"d": np.zeros(1)}}
    }
    start = start_from(params, source)
    found = named(start.params)
    assert list(start.loaded) == ["encoder/a"]
    assert (found["encoder/a"] == 0).all()
    assert (found["encoder/b"] == 1).all() and (found["decoder/c"] == 1).all()
    assert set(start.new) == {"encoder/b", "decoder/c"} and "(5,)" in start.new["encoder/b"]
    assert set(start.left_out) == {"encoder/b", "old/d"}
    for name in ("encoder/b", "decoder/c", "old/d", "1 parameters loaded, 2 new, 2 left out"):
        assert name in start.report()


@pytest.mark.parametrize(
    ("include", "exclude", "loaded"),
    [
        ("^decoder", "", {"decoder/c"}),
        ("", "^decoder", {"encoder/a", "encoder/b"}),
        ("encoder", "/b$", {"encoder/a"}),
    ],
)
def test_patterns_choose(params, include, exclude, loaded):
    start = start_from(params, jax.tree.map(np.zeros_like, params), include, exclude)
    assert set(start.loaded) == loaded
    assert {name for name, value in named(start.params).items() if (value == 0).all()} == loaded


@pytest.mark.parametrize("pattern", ["nothing", "(", "^"])
def test_patterns_that_choose_nothing_or_are_none_are_refused(params, pattern):
    with pytest.raises(ValueError, match=r"config\.freeze="):
        frozen_leaves(params, pattern)
    if pattern != "^":
        with pytest.raises(ValueError, match=r"config\.init\.(source|include)") as caught:
            start_from(params, params, pattern)
        assert "\n" not in str(caught.value)


def test_frozen_parameters_without_values_of_anybody_are_told(params):
    frozen = frozen_leaves(params, "^encoder")
    assert "2 frozen parameters" in frozen_at_random(params, frozen, ())
    assert "such as encoder/b" in frozen_at_random(params, frozen, ["encoder/a", "decoder/c"])
    assert not frozen_at_random(params, frozen, ["encoder/a", "encoder/b"])
    assert not frozen_at_random(params, None, ())


def frozen_config(freeze, **train):
    config = _config(**train)
    config.freeze = freeze
    return config


@pytest.fixture(scope="module")
def drawn():
    """Parameters of the tokenizer; a negative zero is in each, which an added zero would change."""
    rng = np.random.default_rng(0)

    def draw(shape):
        values = 0.1 * rng.standard_normal(shape.shape, np.float32)
        values.flat[0] = -0.0
        return values

    return jax.tree.map(draw, jax.eval_shape(create_task(_config()).init_params, jax.random.key(0)))


@pytest.mark.parametrize(
    ("freeze", "optimizer"),
    [
        ("^encoder", "adam"),
        pytest.param("^decoder/(?!conv_out)", "muon", marks=pytest.mark.slow),
        pytest.param("bias$", "muon", marks=pytest.mark.slow),
    ],
)
def test_frozen_parameters_keep_their_bits_and_have_no_state(freeze, optimizer, drawn):
    config = frozen_config(freeze)
    config.optimizer.update(name=optimizer, clip_norm=1.0)
    task = create_task(config)
    state = task.start_from(drawn, drawn, jax.random.key(0))
    images = np.random.default_rng(0).uniform(-1, 1, (1, 2, 16, 16, 3)).astype(np.float32)
    step = _on_devices(task.step_at(3), 1)
    after, metrics = step(state, {"image": images}, task.load_frozen())
    assert metrics["skipped"] == 0
    before, now, averaged = map(named, (state.params, after.params, after.ema_params))
    for name, frozen in named(task.is_frozen).items():
        if frozen:
            assert before[name].tobytes() == now[name].tobytes() == averaged[name].tobytes(), name
    learnt = [name for name, frozen in named(task.is_frozen).items() if not frozen]
    assert any((before[name] != now[name]).any() for name in learnt)
    shapes = jax.eval_shape(task.optimizer(task.schedule["learning_rate"]).init, state.params)
    moments = sum(x.size for x in jax.tree.leaves(shapes))
    unfrozen = sum(before[name].size for name in learnt)
    assert moments < 2 * unfrozen + 8  # two moments at most, and counts


def test_no_gradient_is_computed_for_a_frozen_encoder(drawn):
    """The arithmetic of a step falls by what the encoder's backward pass takes."""

    def flops(freeze):
        task = create_task(frozen_config(freeze))
        state = task.start_from(drawn, drawn, jax.random.key(0))
        axes = {"in_axes": (None, 0, None), "out_axes": None, "axis_size": 1}
        step = jax.vmap(task.step_at(1), axis_name=AXIS, **axes)
        return count_flops(step, state, {"image": jnp.zeros((1, 2, 16, 16, 3))}, task.load_frozen())

    assert flops("^encoder") < 0.8 * flops("")


def test_a_frozen_last_layer_and_a_gan_do_not_go_together():
    with pytest.raises(ValueError, match=r"decoder/conv_out/kernel.*gan\.weight"):
        create_task(frozen_config("^decoder"))


def weights_of(run):
    copies = ("params", "ema_params")
    return {copy: named(Tokenizer.from_pretrained(run, weights=copy).params) for copy in copies}


@pytest.fixture
def image_folder(tmp_path):
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def quick_to_compile():
    """These networks compile longer than they run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run that others start from: of the smallest tokenizer, with random weights."""
    return write_random_run(tmp_path_factory.mktemp("source"), _config())


def test_a_run_from_other_weights_with_a_frozen_part_resumes_exactly(
    train, source, tmp_path, image_folder, capsys, quick_to_compile
):
    def config(freeze):
        config = frozen_config(freeze, steps=4, batch_size=2)
        config.gan.weight, config.checkpoint.every_steps = 0.0, 2
        config.init.source, config.data.folder = str(source), str(image_folder)
        config.log.update(to="jsonl", images_every_steps=0)
        return config

    assert train(create_task(config("^encoder")), tmp_path / "run") == 0
    assert re.search(r"\d+ parameters loaded, 0 new, 0 left out", capsys.readouterr().out)
    run = RunDirectory(tmp_path / "run")
    whole = weights_of(run.root)
    shutil.rmtree(run.checkpoints / "4")
    moved = config("^encoder")
    moved.init.source = str(tmp_path / "elsewhere")
    assert train(create_task(moved), run.root) == 0
    said = capsys.readouterr().out
    assert "resuming after step 2" in said and "parameters loaded" not in said
    assert "init.source is not looked at" in said and read_config(run).init.source == str(source)
    again, given = weights_of(run.root), named(Tokenizer.from_pretrained(source).params)
    for copy in ("params", "ema_params"):
        for name, value in again[copy].items():
            assert value.tobytes() == whole[copy][name].tobytes(), name
            if name.startswith("encoder"):
                assert value.tobytes() == given[name].tobytes(), name
    assert any((value != given[name]).any() for name, value in again["params"].items())
    with pytest.raises(CheckpointError, match="freeze"):
        train(create_task(config("^decoder")), run.root)


@pytest.mark.parametrize(
    ("recipe", "number", "learns"), [("decoder", 1, "^decoder"), ("512", 1, ""), ("gan", 2, "")]
)
def test_recipes_take_all_weights_and_make_a_step(recipe, number, learns):
    """Of the shapes alone: nothing is compiled. A GAN is there from its step on."""
    base = gpstoken_m128.get_config("smoke")
    config = finetune.get_config(f"{recipe}_smoke")
    assert list(find_mistakes(config)) == []
    task = create_task(config)
    params = jax.eval_shape(task.init_params, jax.random.key(0))
    state = jax.eval_shape(task.start_from, params, params, jax.random.key(0))
    theirs = jax.eval_shape(create_task(base).init_params, jax.random.key(0))
    fits = jax.tree.map(lambda ours, other: ours.shape == other.shape, params, theirs)
    assert all(jax.tree.leaves(fits))
    frozen = {name for name, value in named(task.is_frozen or {}).items() if value}
    assert all(not re.search(learns, name) for name in frozen) and bool(frozen) == bool(learns)
    side = config.model.image_size
    batch = {"image": jax.ShapeDtypeStruct((1, 2, side, side, 3), np.float32)}
    step = jax.vmap(
        task.step_at(number), axis_name=AXIS, in_axes=(None, 0, None), out_axes=None, axis_size=1
    )
    new, metrics = jax.eval_shape(step, state, batch, task.load_frozen())
    assert jax.tree.map(lambda x: x.shape, new) == jax.tree.map(lambda x: x.shape, state)
    assert ("gan_weight" in metrics) == (recipe == "gan")
