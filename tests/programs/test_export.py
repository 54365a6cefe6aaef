"""An exported tokenizer, run by a process that has nothing of this package."""

import re
import subprocess
import sys

import jax.export
import numpy as np
import pytest

from gpstoken_jax import Tokenizer
from gpstoken_jax.runtime.manifest import OutputError
from tests.conftest import ROOT

pytest.importorskip("flatbuffers", reason="flatbuffers is not installed: the extra [export]")
TEST = """
import sys
sys.modules["gpstoken_jax"] = None  # an import of it fails
import numpy as np
images = np.load("images.npy")
{lines}
tokens = encode(weights, images)
few = decode(weights, tokens[:1, 2:5])
np.savez("found.npz", tokens=tokens, pixels=decode(weights, tokens), few=few)
assert not [name for name in sys.modules if name.split(".")[0] in ("flax", "kernels", "configs")]
"""


@pytest.fixture(scope="module")
def exported(program, random_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    program("export", f"--checkpoint={random_run}", f"--output={root / 'served'}")
    return root


@pytest.mark.slow
def test_the_lines_of_the_docs_run_without_the_package(exported, random_run, env):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    np.save(exported / "images.npy", images)
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.S)
    lines = lines[: lines.index("tokens = encode")]
    program = TEST.format(lines=lines)
    where = {k: v for k, v in env.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", program], cwd=exported, env=where, check=True)
    found, tokenizer = np.load(exported / "found.npz"), Tokenizer.from_pretrained(random_run)
    tokens = tokenizer.encode(images)
    np.testing.assert_allclose(found["tokens"], tokens, atol=1e-4, rtol=1e-4)
    pixels = tokenizer.decode(tokens, uint8=True).astype(int)
    assert np.abs(found["pixels"].astype(int) - pixels).max() <= 1
    few = tokenizer.decode(tokens[:1, 2:5], uint8=True).astype(int)
    assert np.abs(found["few"].astype(int) - few).max() <= 1
    assert np.abs(few - pixels[:1]).max() > 1


def test_the_same_command_changes_nothing_and_another_is_refused(program, exported, random_run):
    same = f"--checkpoint={random_run}", f"--output={exported / 'served'}"
    assert "nothing has changed" in program("export", *same)
    with pytest.raises(OutputError, match="num_tokens"):
        program("export", *same, "--num_tokens=5")


def test_both_platforms_and_open_shapes_are_in_it(exported):
    for name in ("encode", "decode"):
        data = bytearray((exported / "served" / f"{name}.stablehlo").read_bytes())
        function = jax.export.deserialize(data)
        assert function.platforms == ("cpu", "cuda")
        assert str(function.in_avals[-1].shape[0]) == "b"
        assert (str(function.in_avals[-1].shape[1]) == "l") == (name == "decode")
