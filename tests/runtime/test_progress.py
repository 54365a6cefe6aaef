"""Lines of progress, and words where nothing else is printed for a while."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.runtime import compiling, devices, progress


@pytest.fixture
def cache(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_long_compilation_is_told_with_its_last_time(cache, monkeypatch, capsys):
    monkeypatch.setattr(compiling, "SILENCE_SECONDS", 0.01)
    for _ in range(2):
        with compiling.compiling("the encoder", "some program"):
            time.sleep(0.5)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"compiling the encoder ... (a minute or so at first, kept in {cache})"
    assert second.startswith("compiling the encoder ... (") and "s last time" in second
    (cache / compiling._TIMES).write_text("{")  # no reason to stop
    with compiling.compiling("the encoder", "some program"):
        time.sleep(0.5)
    assert "a minute or so" in capsys.readouterr().out


def test_what_is_compiled_at_once_or_already_is_not_told(cache, monkeypatch, capsys):
    monkeypatch.setattr(compiling, "SILENCE_SECONDS", 600.0)
    sine = devices.pad_shard_unpad(lambda params, x: jnp.sin(x) + params, "the sine")
    run = functools.partial(sine, np.float32(1))
    run(np.zeros(4, np.float32))
    assert capsys.readouterr().out == "" and not (cache / compiling._TIMES).exists()
    monkeypatch.setattr(compiling, "SILENCE_SECONDS", -1.0)  # every silence is too long
    run(np.zeros(4, np.float32))
    assert not (cache / compiling._TIMES).exists()
    run(np.zeros(64, np.float32))  # another shape, another program
    assert "the sine" in (cache / compiling._TIMES).read_text()


def test_progress_counts_what_an_earlier_run_has_done(capsys):
    counted = progress.Progress(4, label="cell: ")
    counted.start_at(2)
    counted.advance(2)
    line = capsys.readouterr().out
    assert line.startswith("cell: 4/4 images  ") and "ETA 0s" in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (75, "1m15s"), (7300, "2h01m"), (59.6, "1m00s")]
)
def test_durations(seconds, text):
    assert progress.format_seconds(seconds) == text
