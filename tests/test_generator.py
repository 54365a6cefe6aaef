"""The generator as an object: classes, seeds, and generators that never saw a class."""

import jax
import numpy as np
import pytest

from gpstoken_jax import Generator, Tokenizer
from gpstoken_jax.configs import layout_tree, sit_tiny
from gpstoken_jax.generation.layouts import Layouts, write_layouts
from gpstoken_jax.generation.layouts.tree_sampler import TreeSampler, create_network
from gpstoken_jax.generation.sit import create_sit, init_params

CLASSES = ("cat", "dog")
L, CHANNELS = 6, 21


def _generator(classes, layouts=None, untrained=()):
    config, rng = sit_tiny.get_config("smoke"), np.random.default_rng(0)
    config.model.update(num_tokens=L, channels=CHANNELS, num_classes=max(len(classes), 1))
    config.label_names = classes
    config.untrained_labels = untrained
    config.statistics.update(mean=(0.0,) * CHANNELS, std=(0.02,) * 5 + (1.0,) * 16)
    model = create_sit(config.model)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    params = jax.tree.map(lambda s: 0.2 * rng.standard_normal(s.shape, np.float32), shapes)
    return Generator(model, params, config, 3, layouts)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    geometry = np.random.default_rng(0).uniform(0.1, 0.8, (10, L, 5)).astype(np.float32)
    path = tmp_path_factory.mktemp("layouts") / "layouts.safetensors"
    write_layouts(path, Layouts(geometry, np.arange(10, dtype=np.int32) % 2, CLASSES, 32))
    return path


@pytest.fixture(scope="module")
def generator(layouts, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    _generator(CLASSES).save_pretrained(path)
    return Generator.from_pretrained(path, layouts=layouts)


@pytest.mark.slow
def test_an_image_is_the_same_whatever_is_asked_for_beside_it(generator):
    some = generator.sample(["cat", "dog", "cat"], seed=1, steps=3)
    assert some.shape == (3, L, CHANNELS)
    np.testing.assert_allclose(generator.sample("dog", seed=1, steps=3)[0], some[1], atol=1e-5)
    assert generator.labels(np.int64(1)) == [1]
    np.testing.assert_allclose(generator.sample([0, 0], seed=1, steps=3)[1], some[2], atol=1e-5)
    assert np.abs(generator.sample("dog", seed=2, steps=3)[0] - some[1]).max() > 1e-3
    assert np.abs(some[0] - some[2]).max() > 1e-3


def test_saved_and_loaded_again(generator):
    fresh = _generator(CLASSES)
    assert generator.step == 3
    assert generator.label_names == CLASSES
    jax.tree.map(np.testing.assert_array_equal, fresh.params, generator.params)


def test_what_an_interpreter_shows_is_a_line(generator):
    assert repr(generator).startswith("<Generator: ")
    assert len(repr(generator)) < 120 and "\n" not in repr(generator)


def test_samples_are_tokens_that_a_tokenizer_decodes(generator, random_run):
    tokenizer = Tokenizer.from_pretrained(random_run)
    generator.check_tokenizer(tokenizer)
    assert tokenizer.decode(generator.sample("cat", steps=2), uint8=True).shape == (1, 32, 32, 3)


def test_layouts_of_the_caller(generator):
    layout = np.full((L, 5), 0.3, np.float32)
    tokens = generator.sample(["cat", "dog"], layouts=layout, steps=2)
    assert tokens.shape == (2, L, CHANNELS)
    with pytest.raises(ValueError, match=r"layouts must be \[B, L, 5\]"):
        generator.sample("cat", layouts=layout[:, :4])
    with pytest.raises(ValueError, match="there are no layouts: give"):
        _generator(CLASSES).sample("cat")


@pytest.mark.parametrize("classes", ["bird", 2, -1, "2", "", ["cat", "Cat"]])
def test_classes_that_there_are_not(generator, classes):
    with pytest.raises(ValueError, match="is no class of this generator: it has cat, dog"):
        generator.sample(classes)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": 2**70}, "seed must be a whole number of 64 bits"),
        ({"steps": 0}, "at least 2 steps"),
        ({"steps": 2.5}, "a whole number, not 2.5"),
        ({"steps": "2"}, "a whole number, not '2'"),
        ({"method": ""}, "method must be one of"),
        ({"guidance_scale": np.nan}, "guidance takes .* not nan"),
        ({"guidance_scale": "2"}, "guidance takes .* not '2'"),
        ({"guidance_interval": 0.5}, r"two times, \(low, high\)"),
        ({"guidance_interval": (0, np.inf)}, "guidance takes .* not inf"),
        ({"classes": None}, "names or numbers, one at least, not None"),
        ({"classes": []}, "names or numbers, one at least"),
        ({"classes": 1.0}, "names or numbers, one at least, not 1.0"),
        (
            {"layouts": "layouts.safetensors"},
            "not str; a run or a file is given to from_pretrained",
        ),
        ({"layouts": np.zeros((3, L, 5))}, "there are 3 layouts for 1 images"),
        ({"layouts": np.full((L, 5), np.nan)}, "layouts with values that are not finite"),
    ],
)
def test_what_cannot_be_sampled_is_refused_by_name(generator, options, said):
    with pytest.raises(ValueError, match=said):
        generator.sample(**{"classes": "cat", **options})


def test_without_classes_there_is_the_null_class_and_no_guidance(layouts, caplog):
    from gpstoken_jax.generation.layouts import open_layouts

    generator = _generator((), open_layouts(layouts))
    assert not generator.has_classes
    assert generator.labels("all") == [-1]
    tokens = generator.sample(seed=1, steps=3)
    assert "trained without classes: there is no guidance" in caplog.text
    # The embedding of the class that it never saw has no say.
    embedding = generator.params["params"]["label"]["embedding"]
    embedding[0] = np.nan
    np.testing.assert_array_equal(tokens, generator.sample(seed=1, steps=3))
    embedding[1] = np.nan
    with pytest.raises(FloatingPointError):
        generator.sample(seed=1, steps=3)


@pytest.mark.parametrize("classes", ["cat", 0, "0", ["all", "all"]])
def test_classes_asked_of_one_without_are_refused(classes):
    with pytest.raises(ValueError, match="trained on images without classes"):
        _generator(()).labels(classes)


@pytest.mark.parametrize("classes", ["dog", 1, "1", ["cat", "dog"]])
def test_classes_without_an_image_in_the_training_are_refused(classes, layouts):
    generator = _generator(CLASSES, layouts, untrained=(1,))
    with pytest.raises(ValueError, match=r"no image of class 'dog' in the training .*make cat$"):
        generator.sample(classes)
    assert generator.labels("all") == [0]
    assert _generator(CLASSES, untrained=(0, 1)).labels("all") == [-1]


def test_layouts_of_a_class_that_stage_1_never_saw_are_refused(layouts):
    config = layout_tree.get_config("smoke")
    config.model.update(image_size=32, min_size=8, num_classes=2)
    network = create_network(config.model)
    stage1 = TreeSampler(network, {}, CLASSES, 4, untrained=(-1, 1))
    with pytest.raises(ValueError, match="no layout can be drawn of class 'dog'"):
        _generator(CLASSES).check_layouts(stage1, [0, 1])
    with pytest.raises(ValueError, match="no layout can be drawn of no class"):
        stage1.sample(jax.random.split(jax.random.key(0), 2), [0, -1])


def test_guidance_of_one_that_never_saw_no_class(caplog):
    generator = _generator(CLASSES, untrained=(-1,))
    with pytest.raises(ValueError, match="nothing to guide it from"):
        generator.guidance(2.0)
    assert not generator.guidance().active
    assert "there is no guidance" in caplog.text
    assert _generator(CLASSES).guidance().active


def test_guidance_asked_of_one_without_classes_is_refused():
    with pytest.raises(ValueError, match="nothing to guide it to"):
        _generator(()).guidance(2.0)
    assert not _generator(()).guidance(1.0).active
