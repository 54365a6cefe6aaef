"""generate.py as a user runs it: images of classes, the same ones however they are made."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from gpstoken_jax.configs import sit_tiny
from gpstoken_jax.generation.guidance import Guidance
from gpstoken_jax.generation.layouts import Layouts, open_layouts, write_layouts
from gpstoken_jax.generation.samplers import Sampler
from gpstoken_jax.generation.sit import create_sit, init_params
from gpstoken_jax.generator import Generator, Pipeline
from gpstoken_jax.runtime.buckets import file_system
from gpstoken_jax.runtime.checkpoint import CheckpointError, Checkpoints
from gpstoken_jax.runtime.run_directory import RunDirectory, write_config
from gpstoken_jax.tokenizer import Tokenizer
from gpstoken_jax.tokens import open_tokens
from tests import emulators, forked
from tests.kills import kill_and_resume

ROOT = Path(__file__).parents[2]
CLASSES = ("cat", "dog", "a/b", "cat.", "dog, wolf", "tokens", "Cat.")
L, CHANNELS, STEPS = 6, 21, 5


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A run of stage 2 as train.py leaves it, with random weights."""
    config, rng = sit_tiny.get_config("smoke"), np.random.default_rng(0)
    config.model.update(num_tokens=L, channels=CHANNELS, num_classes=len(CLASSES))
    config.label_names = CLASSES
    config.statistics.update(mean=(0.0,) * CHANNELS, std=(0.02,) * 5 + (1.0,) * 16)
    run = RunDirectory(tmp_path_factory.mktemp("generator"))
    write_config(run, config)
    model = create_sit(config.model)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    params = jax.tree.map(lambda s: 0.2 * rng.standard_normal(s.shape, np.float32), shapes)
    checkpoints = Checkpoints(run.checkpoints, keep=1)
    checkpoints.save(3, {"ema_params": params}, {})
    checkpoints.close()
    return run.root


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """A file of layouts; its classes are numbered otherwise, and lack one."""
    rng = np.random.default_rng(0)
    geometry = rng.uniform(0.1, 0.8, (10, L, 5)).astype(np.float32)
    label = np.arange(10, dtype=np.int32) % 2
    path = tmp_path_factory.mktemp("layouts") / "layouts.safetensors"
    write_layouts(path, Layouts(geometry, label, ("dog", "cat"), 32))
    return path


@pytest.fixture(scope="module")
def run(generator, random_run, env):
    """Runs generate.py; the tokenizer has random weights too."""

    def generate(output, *arguments, fails=False, **more_env):
        where = f"--generator={generator}", f"--tokenizer={random_run}", f"--output={output}"
        command = [
            sys.executable,
            "-m",
            "gpstoken_jax",
            "generate",
            *where,
            f"--steps={STEPS}",
            *arguments,
        ]
        result = forked.run(command, cwd=ROOT, env=env | more_env)
        assert result.returncode == int(fails), result.stderr
        assert "Traceback" not in result.stderr
        return result.stderr if fails else result.stdout

    return generate


@pytest.fixture(scope="module")
def made(run, layouts, tmp_path_factory):
    output = tmp_path_factory.mktemp("made")
    arguments = f"--layouts={layouts}", "--classes=cat,1", "--count=5", "--batch_size=4"
    return output, run(output, *arguments), arguments


def test_images_of_every_class_with_tokens_and_a_record(made, random_run):
    output, said, _ = made
    names = {f"{name}/{i:06d}.png" for name in ("cat", "dog") for i in range(5)}
    assert {str(path.relative_to(output)) for path in output.glob("*/*.png")} == names
    assert "10/10 images" in said and "ETA" in said
    record = json.loads((output / "generation.json").read_text())
    assert record["generator"]["classes"] == ["cat", "dog"]
    assert record["generator"]["sampler"]["steps"] == STEPS
    # Four steps and the last; from 0.2 on guided, which the first two of them are before.
    assert record["last_run"]["evaluations_per_image"] == 9
    assert "9 evaluations of the network an image" in said
    grid = np.asarray(Image.open(output / "grid.png"))
    assert grid.shape == (2 * 32 + 4, 5 * 32 + 4 * 4, 3)
    tokens, tokenizer = open_tokens(output / "tokens"), Tokenizer.from_pretrained(random_run)
    assert [tokens.header["label_names"][e.label] for e in tokens] == ["cat"] * 5 + ["dog"] * 5
    example = tokens[6]
    assert example.name == "dog/000001.png"
    pixels = tokenizer.decode(example.tokens[None].repeat(4, 0), uint8=True)[0]
    np.testing.assert_array_equal(np.asarray(Image.open(output / example.name)), pixels)


@pytest.mark.slow
def test_a_bucket_gets_the_same_files_and_only_what_is_missing_again(
    made, generator, random_run, program
):
    output, _, arguments = made

    def run():
        where = f"--generator={generator}", f"--tokenizer={random_run}", f"--output={place}"
        return program("generate", *where, f"--steps={STEPS}", *arguments)

    def there():
        changing = ("generation.json", "manifest.json", "tokens/manifest.json")
        return {k: v for k, v in emulators.contents(place).items() if k not in changing}

    with emulators.bucket("s3") as bucket:
        place = f"{bucket}/made"
        run()
        files = {str(p.relative_to(output)): p for p in output.rglob("*") if p.is_file()}
        wanted = {name: files[name].read_bytes() for name in there()}
        assert files.keys() == emulators.contents(place).keys()
        assert there() == wanted
        last = max(name for name in wanted if name.endswith(".safetensors"))
        file_system(place).rm_file(f"{place}/{last}")
        assert "2 of 3 batches are there already" in run()
        assert there() == wanted


def test_an_interrupted_run_makes_only_what_is_missing(made, run):
    output, _, arguments = made
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*")}
    last = sorted((output / "tokens").glob("*.safetensors"))[-1]
    content = last.read_bytes()
    last.unlink()
    said = run(output, *arguments)
    assert "2 of 3 batches are there already" in said
    assert last.read_bytes() == content
    redone = {last, output / "dog" / "000003.png", output / "dog" / "000004.png"}
    redone |= {output / "tokens" / name for name in ("index.json", "manifest.json")}
    for path, time in before.items():
        assert (path.stat().st_mtime_ns == time) == (path not in redone), path


def test_other_settings_in_the_same_place_are_refused(made, run):
    output, _, arguments = made
    said = run(output, *arguments, "--seed=1", fails=True)
    assert "generator.seed was 0 and is now 1" in said


@pytest.mark.slow
def test_an_image_is_the_same_on_two_devices_in_other_batches(made, run, layouts, env, tmp_path):
    arguments = f"--layouts={layouts}", "--classes=dog", "--count=3", "--batch_size=6"
    run(
        tmp_path,
        *arguments,
        XLA_FLAGS=f"{env.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2",
    )
    ours, theirs = open_tokens(tmp_path / "tokens"), open_tokens(made[0] / "tokens")
    for i in range(3):
        assert ours[i].name == theirs[5 + i].name
        np.testing.assert_array_equal(ours[i].initial_geometry, theirs[5 + i].initial_geometry)
        np.testing.assert_allclose(ours[i].tokens, theirs[5 + i].tokens, atol=2e-4)


@pytest.mark.slow
def test_the_layout_of_a_photo(run, tmp_path):
    Image.fromarray(photos.coffee()).save(tmp_path / "photo.png")
    arguments = f"--layout_image={tmp_path / 'photo.png'}", "--num_tokens=9"
    arguments += ('--classes=a/b,cat.,"dog, wolf",tokens,Cat.,a/b',)  # one of them twice
    run(tmp_path / "out", *arguments, "--count=2", "--method=ode_heun", "--guidance_scale=1")
    tokens = open_tokens(tmp_path / "out" / "tokens")
    made = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").glob("*/*.png")}
    assert {path.name for path in made} == {"000000.png", "000001.png"} and len(made) == 10
    folders = {path.parent.name.partition("~")[0] for path in made}
    assert folders == {"a_b", "cat", "dog, wolf", "tokens", "Cat"}
    assert len({path.parent.name.casefold() for path in made}) == 5
    assert tokens[0].geometry.shape == (9, 5)  # not the number that it was trained with
    np.testing.assert_array_equal(tokens[0].initial_geometry, tokens[1].initial_geometry)
    assert (tokens[0].features != tokens[1].features).any()
    record = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert record["last_run"]["evaluations_per_image"] == 2 * (STEPS - 1)


def test_layouts_are_matched_by_the_names_of_classes(generator, random_run, layouts):
    """The file's class 0 is the generator's class 1."""
    pipeline = _pipeline(generator, random_run, layouts)
    made = pipeline(np.array([0, 0, 1]), np.array([0, 1, 0]))
    stored = open_layouts(layouts)._geometry
    for row, number in ((0, 1), (1, 1), (2, 0)):
        matches = (stored == made["initial_geometry"][row]).all(axis=(1, 2))
        assert np.flatnonzero(matches)[0] % 2 == number
    loaded, stage1 = Generator.from_pretrained(generator), open_layouts(layouts)
    loaded.check_layouts(stage1, [0, 1])
    with pytest.raises(ValueError, match="no layouts of class 'a/b', only of dog, cat"):
        loaded.check_layouts(stage1, [2])


def _pipeline(generator, random_run, layouts):
    return Pipeline(
        Generator.from_pretrained(generator),
        Tokenizer.from_pretrained(random_run),
        open_layouts(layouts),
        Sampler("ode_euler", 3),
        Guidance(1.5),
        seed=0,
        batch_size=4,
    )


def test_mistakes_are_named_in_one_line(run, layouts, random_run, tmp_path):
    assert "give one of --layouts" in run(tmp_path, fails=True)
    assert "'bird' is no class of this generator: it has cat, dog, a/b" in run(
        tmp_path, f"--layouts={layouts}", "--classes=bird", fails=True
    )
    with pytest.raises(CheckpointError, match="is a run of task 'tokenizer', not 'sit'"):
        Generator.from_pretrained(random_run)


def test_classes_are_checked_before_anything_is_loaded(program, generator, tmp_path, monkeypatch):
    def load(*_, **__):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr("gpstoken_jax.weights.pretrained.load", load)
    where = f"--generator={generator}", "--tokenizer=x", f"--output={tmp_path}", "--layouts=y"
    with pytest.raises(ValueError, match="'bird' is no class"):
        program("generate", *where, "--classes=cat,bird")
    with pytest.raises(AssertionError, match="weights are loaded"):
        program("generate", *where, "--classes=cat")


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits(monkeypatch, capsys, tmp_path):
    flags = f"--workdir={tmp_path}", "--images=64", "--kills=2"
    code, said = kill_and_resume(monkeypatch, "generate", *flags), capsys.readouterr().out
    assert code == 0, said
    assert "[2/2] killed while" in said and "the same bits" in said
