"""scripts/export_pretrained.py: a run's averaged weights become weights with a card."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from skimage.data import coffee

from gpstoken_jax import Tokenizer
from gpstoken_jax.configs import tiny
from gpstoken_jax.runtime.run_directory import RunDirectory
from gpstoken_jax.weights.pretrained import CARD
from tests.random_run import write_random_run

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_card_counts_what_went_before_and_measures_the_written_file(tmp_path, env):
    photos, notes, run = tmp_path / "photos", tmp_path / "notes.md", tmp_path / "run"
    photos.mkdir()
    run.mkdir()
    write_random_run(run, tiny.get_config("smoke"))  # of step 7
    lines = [{"step": step, "train_seconds": 600.0 * step} for step in (3, 6, 9)]
    RunDirectory(run).metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for i in range(3):
        Image.fromarray(coffee()[40 * i : 40 * i + 64, 30 * i : 30 * i + 64]).save(
            photos / f"{i}.png"
        )
    notes.write_text("## Phases\n\nTwo.\n")
    output = tmp_path / "small-ones"
    command = [sys.executable, "scripts/export_pretrained.py", f"--run={run}", "--step=7"]
    command += [f"--photos={photos}", "--resolution=32,64", f"--output={output}"]
    command += ["--steps_before=1000", "--hours_before=2", f"--notes={notes}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr

    exported = Tokenizer.from_pretrained(output)
    assert exported.step == 1007
    jax.tree.map(
        lambda ours, its: np.testing.assert_array_equal(np.float16(its), np.float16(ours)),
        exported.params,
        Tokenizer.from_pretrained(run).params,
    )
    card = (output / CARD).read_text()
    assert card.startswith("# small-ones\n") and card.endswith("## Phases\n\nTwo.\n")
    assert "Step 1,007 of" in card and "3.0 hours" in card  # those of step 6 are its last
    assert card.count("| this |") == card.count("| bicubic |") == 2 and "\n3 photos" in card
