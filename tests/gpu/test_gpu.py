"""`make gpu` keeps what it has found whatever its stages do; its parts measure what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax import kernels
from scripts import gpu
from tests.gpu import device_time, literal_kernel, runner, stages, stand_ins, tables
from tests.gpu.runner import DONE, FAILED, LEFT_OUT, STOPPED, Stage
from tests.kernels.specs import SPECS
from tests.kernels.suite import random_tokens, relative

ROOT = Path(__file__).parents[2]


def shell(name, script, seconds=60.0, **more):
    return Stage(name, ("sh", "-c", script), seconds, **more)


def test_stages_that_crash_or_hang_lose_nothing(tmp_path):
    hangs = f"echo '[1]' > {tmp_path}/hangs.json; sleep 600 & echo $! > {tmp_path}/child; sleep 600"
    planned = [
        shell("crashes", f"echo '[2]' > {tmp_path}/crashes.json; echo; echo broken; echo; exit 3"),
        shell("hangs", hangs, seconds=1.0),
        shell("missing", "no-such-program"),
        shell("good", f"echo '[3]' > {tmp_path}/good.json"),
    ]
    said = []
    outcomes = runner.run_all(planned, tmp_path, 60, said.append)
    assert [o.status for o in outcomes] == [FAILED, STOPPED, FAILED, DONE]
    assert outcomes[0].reason == "broken" and "no-such-program" in outcomes[2].reason
    assert [json.loads((tmp_path / f"{o.name}.json").read_text())
            for o in outcomes if o.name != "missing"] == [[2], [1], [3]]  # fmt: skip
    child = int((tmp_path / "child").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z", "what it started still runs"
    assert len(said) == 4 and "crashes: failed" in said[0] and "broken" in said[0]
    assert [o.status for o in runner.earlier(tmp_path).values()] == [FAILED, STOPPED, FAILED, DONE]


def test_a_run_goes_on_where_one_ended(tmp_path):
    runner.run_all([shell("first", "true"), shell("second", "false")], tmp_path, 60, str)
    runner.run_all([shell("second", "true"), shell("third", "true")], tmp_path, 0.5, str)
    ends = {name: outcome.status for name, outcome in runner.earlier(tmp_path).items()}
    assert ends == {"first": DONE, "second": LEFT_OUT, "third": LEFT_OUT}


def test_neighbours_of_one_number_run_at_the_same_time(tmp_path):
    meets = "touch {}; while [ ! -e {} ]; do sleep 0.05; done"
    a, b = tmp_path / "a", tmp_path / "b"
    pair = [shell("a", meets.format(a, b), beside=1), shell("b", meets.format(b, a), beside=1)]
    assert [o.status for o in runner.run_all(pair, tmp_path, 60, str)] == [DONE, DONE]


def test_the_program_runs_a_stage_and_does_not_repeat_it(tmp_path, monkeypatch, capsys):
    ran = []

    def run_all(planned, output, seconds, say):
        ran.extend(stage.name for stage in planned)
        output.mkdir(exist_ok=True)
        for stage in planned:  # as its process would
            gpu.main(stage.command[2:])
        found = {s.name: vars(runner.Outcome(s.name, DONE, 1.0)) for s in planned}
        runner.write_json(output / "summary.json", found)
        return runner.earlier(output).values()

    monkeypatch.setattr(runner, "run_all", run_all)
    monkeypatch.setattr(gpu, "import_from_checkout", lambda: None)
    words = ["--small", "--output", str(tmp_path), "--only", "device", "sanitizer-memcheck"]
    for _ in range(2):
        assert gpu.main(words) == 0
    assert ran == ["device", "sanitizer-memcheck"]
    assert json.loads((tmp_path / "device.json").read_text())["jax"] == jax.__version__
    assert "left_out" in json.loads((tmp_path / "sanitizer-memcheck.json").read_text())
    assert "left out: " in capsys.readouterr().out


def test_every_shape_is_measured_and_every_stage_has_a_place():
    assert sorted(stages.SHAPES) == sorted(SPECS)
    assert set(stages.NOT_SMALL) < set(stages.ALL)
    assert {s for stage in ("splat-1", "splat-2")
            for s in range(*(stages.ALL[stage][1][k] for k in ("first", "last")))} == set(
        range(len(SPECS)))  # fmt: skip


def test_device_time_is_that_of_the_program():
    function = jax.jit(lambda x: jnp.tanh(x @ x).sum()).lower(jnp.ones((64, 64))).compile()
    times = device_time.measure(function, jnp.ones((64, 64)), seconds=0.01)
    assert times.device > 0 and times.wall > 0 and times.events >= 1
    assert sum(times.parts.values()) == pytest.approx(times.device, rel=0.5)


def test_overlapping_intervals_count_once():
    assert device_time.covered([]) == 0
    assert device_time.covered([(5, 7), (0, 4), (1, 2), (3, 5)]) == 7


@pytest.mark.slow
def test_the_literal_kernel_is_right():
    size = (16, 8)
    geometry, features = random_tokens(0, 32, 1, size=size)
    tokens = geometry[None], features[None]
    cotangent = np.random.default_rng(0).normal(size=(1, *size, 1)).astype(np.float32)

    def both(draw):
        image, pullback = jax.vjp(draw, *tokens)
        return image, *pullback(cotangent)

    literal = jax.jit(lambda: both(lambda g, f: literal_kernel.splat(g, f, size, 3.0, True)))
    expected = both(lambda g, f: kernels.splat(g, f, size, implementation="reference"))
    for a, b in zip(literal(), expected, strict=True):
        assert relative(a, np.asarray(b)) < 1e-5


def test_tables_have_what_was_measured_and_say_what_was_not(tmp_path):
    docs, results = tmp_path / "docs", tmp_path / "results"
    docs.mkdir()
    page = docs / "speed.md"
    page.write_text(
        "before\n\n<!-- gpu models -->\n<!-- end gpu models -->\n"
        "<!-- gpu splat -->\nmeasured once\n<!-- end gpu splat -->\n"
        "<!-- gpu checks -->\n<!-- end gpu checks -->\nafter\n"
    )
    tables.write(results, docs)
    empty = page.read_text()
    assert empty.count(tables.NOT_YET) == 2 and "measured once" in empty
    results.mkdir()
    times = {"device": 3.14, "wall": 9.0, "parts": {}, "events": 1.0}
    made = {
        "device": {"device": "A GPU", "nvidia_smi": "driver", "jax": "0.12"},
        "splat-1": {"b16_64x64_l256": {"pallas": {"forward": times},
                                       "xla": {"forward": times | {"device": None}}}},
        "training-bfloat16-8": {"dtype": "bfloat16", "batch": 8, "images_per_second": 55.5,
                                "mfu": 0.251, "gflop": 9000.0, "device_memory_gb": 12.3},
        "coding": {"encode, bfloat16, batch 1": {"images_per_second": 77.0}},
        "sampling-bfloat16": {"dtype": "bfloat16", "batch": 16, "steps": 250,
                              "images_per_second": 4.5},
        "suite-float32": {"implementation": "pallas", "right": 1, "cases": {"a": {}, "b": {}}},
        "summary": {"suite-float32": {"name": "suite-float32", "status": FAILED, "seconds": 2.0,
                                      "reason": "1 of 2 cases are wrong"}},
    }  # fmt: skip
    for name, value in made.items():
        runner.write_json(results / f"{name}.json", value)
    tables.write(results, docs)
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n")
    assert tables.NOT_YET not in text and "measured once" not in text
    assert "| forward | 2.7 .. 3.2 | 3.1 | 1 | 9.0 (wall) | not measured |" in text
    assert "| bfloat16, batch 8 | 55.5 | 25.1% | 9,000 | 12.3 GB |" in text
    assert "| encode, bfloat16, batch 1 | 77 |" in text and "| 250 | 4.50 |" in text
    assert "1 of 2 cases right, `pallas`; 1 of 2 cases are wrong" in text
    tables.write(results, docs)
    assert page.read_text() == text


def test_predictions_are_of_shapes_that_are_measured():
    assert set(json.loads(tables.PREDICTIONS.read_text())) <= set(SPECS)


def test_the_documents_have_a_place_for_every_table():
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for name in tables.render({}):
        assert f"<!-- gpu {name} -->" in pages and f"<!-- end gpu {name} -->" in pages


WITHOUT = """
import sys
from unittest import mock
sys.path.insert(0, {root!r})
import gpstoken_jax
gpstoken_jax.__path__.append({root!r})
from tests.gpu import stand_ins, stages
assert stand_ins.install(stand_ins.PACKAGES) == list(stand_ins.PACKAGES)
import jax, jax.numpy as jnp
from gpstoken_jax.configs import gpstoken_m128, sit_xl
from gpstoken_jax.generation.sampling import BatchSampler
from gpstoken_jax.generation.sit import create_sit
from gpstoken_jax.training.task import create_task
from scripts.compile_step import state_shapes
config = gpstoken_m128.get_config("smoke")
config.loss.lpips_weight = 1.0
task = create_task(config)
step = jax.vmap(task.step_at(1), axis_name="data", in_axes=(None, 0, None))
images = {{"image": jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.float32)}}
with mock.patch("gpstoken_jax.training.tokenizer.load_loss_networks", stages._loss_networks):
    frozen = task.load_frozen()
_, metrics = jax.eval_shape(step, state_shapes(task), images, frozen)
assert "lpips" in metrics
config = sit_xl.get_config("smoke").model
config.update(num_tokens=8, channels=21, num_classes=2)
assert create_sit(config).depth == config.depth and BatchSampler
"""


@pytest.mark.slow
def test_stages_need_none_of_the_packages_that_have_stand_ins():
    code = WITHOUT.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_stand_in_for_config_dict_merges_sections():
    config = stand_ins.ConfigDict({"a": {"b": 1, "c": 2}, "d": 3})
    config.update({"a": {"b": 5}}, d=4)
    config.a.e = 6
    assert dict(**config.a) == {"b": 5, "c": 2, "e": 6} and config.d == 4
    assert config.get("x", 7) == 7 and not hasattr(config, "x")
