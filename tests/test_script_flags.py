"""Wrong flags of scripts for developers: one line before any work, not a traceback after it."""

import importlib
import importlib.util
import sys

import pytest

from scripts import compile_step, gpu
from tests.kernels import bench

SHAPE = ["--shape", "b1_64x64_l64"]


@pytest.mark.parametrize(
    ("program", "arguments", "said"),
    [
        (bench, [*SHAPE, "--runs", "0"], "--runs 0: at least 1"),
        (bench, [*SHAPE, "--before", "gone"], "--before gone: there is no folder kernels in it"),
        (bench, [*SHAPE, "--json", "gone/x.json"], "gone/x.json: there is no directory gone"),
        (bench, [*SHAPE, "--markdown", "gone/x.md"], "gone/x.md: there is no directory gone"),
        (compile_step, ["--batch", "8", "0"], "--batch 0: at least 1"),
        (compile_step, ["--config", "gone"], "--config gone: configs/ has no such config"),
        (compile_step, ["--config", "sit_tiny"], "--config sit_tiny: it is of no tokenizer"),
        (compile_step, ["--dtype", "float12"], "invalid choice: 'float12'"),
        (compile_step, ["--json", "gone/x.json"], "gone/x.json: there is no directory gone"),
        (compile_step, ["--batch", "1"], "CUDA plugin is not installed"),
        (gpu, ["--output", __file__], "is a file"),
        (gpu, ["--tables", "--output", "gone"], "--tables: gone has no results"),
    ],
)
def test_wrong_flags(program, arguments, said, monkeypatch, capsys):
    if "CUDA" in said and importlib.util.find_spec("jax_plugins"):
        pytest.skip("JAX's CUDA plugin is installed")
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as left:
        program.main()
    assert left.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
