"""convert.py as a user runs it, and what it makes of every form that published weights have."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from skimage import data as photos

from gpstoken_jax.configs import tiny
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.tokenizer import Tokenizer
from gpstoken_jax.training.conversion import export_weights, import_weights
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.published import tokenizer_table

ROOT = Path(__file__).parents[2]
COUNTERS = {"initted": np.ones((), bool), "step": np.array(7)}


@pytest.fixture(scope="module")
def config():
    return tiny.get_config("smoke")


def _random(config, seed):
    rng = np.random.default_rng(seed)
    table = tokenizer_table(config.model)
    shapes = table.used | table.unused
    return {key: rng.normal(0, 0.2, shape).astype(np.float32) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def model(config):
    return _random(config, 1)


@pytest.fixture(scope="module")
def averaged(config):
    return _random(config, 2)


def _prefixed(tensors, prefix):
    return {prefix + key: tensor for key, tensor in tensors.items()}


def _assert_run_has(run, config, params, ema_params):
    for name, tensors in (("params", params), ("ema_params", ema_params)):
        loaded, expected = (
            Tokenizer.from_pretrained(run, weights=name),
            tokenizer_table(config.model).from_torch(tensors),
        )
        jax.tree.map(np.testing.assert_array_equal, loaded.params, expected)


def test_a_plain_file_fills_both(model, config, tmp_path):
    save_file(model, tmp_path / "w.safetensors", {"format": "pt"})
    done = import_weights(tmp_path / "w.safetensors", config, tmp_path / "run")
    _assert_run_has(tmp_path / "run", config, model, model)
    unused = sum(tensor.size for key, tensor in model.items() if "temb_proj" in key)
    assert done.num_parameters == sum(tensor.size for tensor in model.values()) - unused
    assert done.num_unused == unused
    assert done.used + len(done.unused) == len(model)
    assert all("temb_proj" in key for key in done.unused)


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_file_of_averaged_weights_has_both(wrapper, model, averaged, config, tmp_path):
    both = _prefixed(averaged, "ema_model.") | _prefixed(model, "online_model.") | COUNTERS
    save_file(_prefixed(both, wrapper), tmp_path / "w.safetensors")
    done = import_weights(tmp_path / "w.safetensors", config, tmp_path / "run")
    _assert_run_has(tmp_path / "run", config, model, averaged)
    left = {f"{wrapper}initted", f"{wrapper}step"}
    assert left < set(done.unused)
    read = [key for key in both if key not in COUNTERS]
    assert 2 * done.used + len(done.unused) - len(left) == len(read)


def test_a_training_checkpoint_folder(model, averaged, config, tmp_path):
    """Accelerate leaves a model, its average, the discriminator and a loss network."""
    folder = tmp_path / "checkpionts.00000042"
    folder.mkdir()
    stale = {key: tensor + 1 for key, tensor in model.items()}
    kept = _prefixed(averaged, "ema_model.") | _prefixed(stale, "online_model.") | COUNTERS
    save_file(model, folder / "model.safetensors")
    save_file(kept, folder / "model_1.safetensors")
    save_file({"discriminator.main.0.bias": np.zeros(3)}, folder / "model_2.safetensors")
    (folder / "optimizer.bin").write_bytes(b"pickle")
    done = import_weights(folder, config, tmp_path / "both")
    assert done.source_step == 42
    reasons = {path.name: reason for path, reason in done.other_files.items()}
    assert reasons["model_2.safetensors"] == "another network"
    assert "no state for the network: " in reasons["optimizer.bin"] and len(reasons) == 2
    assert "left out: " in str(done)
    assert [Path(name.split(" ")[0]).name for name in done.read] == [
        "model.safetensors",
        "model_1.safetensors",
    ]
    _assert_run_has(tmp_path / "both", config, model, averaged)
    import_weights(folder, config, tmp_path / "ema", weights="ema")
    _assert_run_has(tmp_path / "ema", config, averaged, averaged)
    import_weights(folder, config, tmp_path / "model", weights="model")
    _assert_run_has(tmp_path / "model", config, model, model)


def test_there_and_back_is_the_same_file(model, averaged, config, tmp_path):
    both = _prefixed(averaged, "ema_model.") | _prefixed(model, "online_model.")
    save_file(both, tmp_path / "w.safetensors")
    import_weights(tmp_path / "w.safetensors", config, tmp_path / "run")
    for weights, original in (("params", model), ("ema_params", averaged)):
        done = export_weights(tmp_path / "run", tmp_path / "out" / "w.safetensors", weights=weights)
        written = load_file(tmp_path / "out" / "w.safetensors")
        assert written.keys() == original.keys()
        for key in original:
            expected = np.zeros_like(original[key]) if key in done.unused else original[key]
            np.testing.assert_array_equal(written[key], expected, err_msg=key)


def test_faults_are_named(model, config, tmp_path):
    """In one line: the file, the tensor, both shapes, and what to try."""
    file = tmp_path / "w.safetensors"

    def convert(tensors, match, **options):
        save_file(tensors, file)
        with pytest.raises(WeightsError, match=match) as raised:
            import_weights(file, config, tmp_path / "run", **options)
        assert "\n" not in str(raised.value)

    missing = {key: tensor for key, tensor in model.items() if key != "to_gps.0.bias"}
    convert(missing, r"w\.safetensors does not fit: 1 missing \(to_gps\.0\.bias\); is it")
    wrong = model | {"to_gps.0.bias": np.zeros((2, 3), np.float32)}
    convert(wrong, r"1 of another shape \(to_gps\.0\.bias is 2 x 3, not 5\)")
    whole = model | {"to_gps.0.bias": np.zeros(5, np.int32)}
    convert(whole, r"to_gps\.0\.bias is int32, not a float")
    deeper = {key.replace("attnblocks.1.", "attnblocks.2."): t for key, t in model.items()}
    convert(deeper | model, r"has 14 tensors more than the config's network.*another model")
    convert({"a.b": np.zeros(1)}, "no tensors of a tokenizer")
    convert(model, "no weights of the kind 'ema', only", weights="ema")
    two = _prefixed(model, "a.") | _prefixed(model, "b.")
    convert(two, r"several copies of the network, give one alone: .*\(a\.\*\).*\(b\.\*\)")
    file.write_bytes(b"not at all")
    with pytest.raises(WeightsError, match="damaged or not a safetensors file"):
        import_weights(file, config, tmp_path / "run")
    with pytest.raises(WeightsError, match="there is no file or folder"):
        import_weights(tmp_path / "gone", config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_written_over(model, config, tmp_path):
    save_file(model, tmp_path / "w.safetensors")
    import_weights(tmp_path / "w.safetensors", config, tmp_path / "run")
    with pytest.raises(CheckpointError, match="has checkpoints already"):
        import_weights(tmp_path / "w.safetensors", config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_every_program_takes_converted_weights(program, model, tmp_path):
    """convert.py, then eval.py (rounding as the release does), then train.py from there."""
    folder, run = tmp_path / "photos", tmp_path / "run"
    folder.mkdir()
    for i in range(6):
        crop = photos.coffee()[40 * i : 40 * i + 60, 50 * i : 50 * i + 70]
        Image.fromarray(crop).save(folder / f"{i}.png")
    save_file(model, tmp_path / "w.safetensors")
    config = f"--config={ROOT / 'configs/tiny.py'}:smoke"
    said = program("convert", f"--input={tmp_path / 'w.safetensors'}", config, f"--output={run}")
    assert f"parameters: {_num_used(model):,}, every one filled" in said
    assert "unused:     preprocess_img.1.temb_proj.weight" in said
    data, output = f"--data.folder={folder}", f"--output={tmp_path / 'eval'}"
    plain = "--lpips=False", "--frechet=False", "--baselines=", "--report_images=0"
    program("eval", f"--checkpoint={run}", data, output, "--eval.rounding=truncate", *plain)
    measured = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert measured["protocol"]["rounding"] == "truncate"
    assert measured["protocol"]["num_images"] == 6
    said = program("train", config, f"--workdir={run}", data, "--config.train.steps=2")
    assert "resuming after step 0" in said
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]  # the last step is evaluated, too
    assert [line["step"] for line in trained] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in trained)
    back = tmp_path / "back.safetensors"
    program("convert", f"--input={run}", "--to=torch", "--step=0", f"--output={back}")
    key = "decoder.conv_out.weight"
    np.testing.assert_array_equal(load_file(back)[key], model[key])


def _num_used(tensors):
    return sum(tensor.size for key, tensor in tensors.items() if "temb_proj" not in key)
